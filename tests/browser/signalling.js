// What every page needs that calls a peer: matrix-js-sdk for the signalling, and a few words around it.
import * as sdk from "matrix-js-sdk";
import { createNewMatrixCall } from "matrix-js-sdk/lib/webrtc/call.js";

export const PAYLOAD = 16 * 1024; // the longest payload message
export const within = (ms, what, promise) =>
  Promise.race([promise, new Promise((_, no) => setTimeout(() => no(new Error(`no ${what} within ${ms} ms`)), ms))]);
export const once = (target, name) => new Promise((yes) => target.addEventListener(name, yes, { once: true }));
export const sha256 = async (bytes) =>
  [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))].map((b) => b.toString(16).padStart(2, "0")).join("");

export function join(chunks) {
  const all = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0));
  let at = 0;
  for (const chunk of chunks) {
    all.set(new Uint8Array(chunk), at);
    at += chunk.byteLength;
  }
  return all;
}

export function random(size) {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  return bytes;
}

// `prepare` is given the client before it starts: encryption must be there for the first answer.
export async function login(homeserver, user, password, prepare = () => {}) {
  const anonymous = sdk.createClient({ baseUrl: homeserver });
  const reply = await anonymous.loginRequest({
    type: "m.login.password",
    identifier: { type: "m.id.user", user },
    password,
  });
  const client = sdk.createClient({
    baseUrl: homeserver,
    accessToken: reply.access_token,
    userId: reply.user_id,
    deviceId: reply.device_id,
  });
  await prepare(client);
  await client.startClient({ initialSyncLimit: 5 });
  await within(20000, "first sync", new Promise((yes) => client.once("sync", yes)));
  return client;
}

export async function directRoom(client, peer, encrypt = false) {
  const encryption = { type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } };
  const more = encrypt ? { initial_state: [encryption] } : {};
  const { room_id: id } = await client.createRoom({ invite: [peer], is_direct: true, preset: "private_chat", ...more });
  const joined = () => client.getRoom(id)?.getJoinedMembers().length === 2;
  await within(20000, "join of the peer", new Promise((yes) => {
    if (joined()) return yes();
    client.on("RoomState.members", () => joined() && yes());
    client.on("Room", () => joined() && yes());
  }));
  return id;
}

// A call without media: the data channel has to exist before the offer is made.
export async function placeCall(client, room, log) {
  const call = createNewMatrixCall(client, room);
  call.on("state", (state) => log.push(`state ${state}`));
  call.on("error", (error) => log.push(`error ${error.code} ${error.message}`));
  call.on("hangup", () => log.push(`hangup ${call.hangupReason}`));
  const placed = call.placeCallWithCallFeeds([], false);
  await within(5000, "peer connection", (async () => {
    while (!call.peerConn) await new Promise((yes) => setTimeout(yes, 5));
  })());
  return { call, placed };
}
