// A page as anybody could write it: matrix-js-sdk for the signalling, the browser's own data channels for the rest.
// Nothing of the bridge's code is used here, so what works here works from docs/reference/protocol.md alone.
import { PAYLOAD, directRoom, join, login, once, placeCall, random, sha256, within } from "./signalling.js";

async function rawEcho(channel, data) {
  channel.binaryType = "arraybuffer";
  const chunks = [];
  let size = 0;
  const all = new Promise((yes) => {
    channel.onmessage = ({ data: chunk }) => {
      chunks.push(chunk);
      size += chunk.byteLength;
      if (size === data.byteLength) yes();
    };
  });
  if (channel.readyState !== "open") await within(20000, "open raw channel", once(channel, "open"));
  for (let at = 0; at < data.byteLength; at += PAYLOAD) channel.send(data.subarray(at, at + PAYLOAD));
  await within(30000, "raw echo", all);
  channel.close();
  return join(chunks);
}

// tcp.v1.mxrtc: binary is payload, text is control. Sends data, half-closes, and reads to the end.
function tcpExchange(channel, data) {
  channel.binaryType = "arraybuffer";
  return new Promise((yes, no) => {
    const chunks = [];
    let received = 0, sent = 0, limit = 0, finished = false, acked = 0, announced = 0;
    const say = (message) => channel.send(JSON.stringify(message));
    const pump = () => {
      while (sent < data.byteLength && sent < limit) {
        const end = Math.min(sent + PAYLOAD, data.byteLength, limit);
        channel.send(data.subarray(sent, end));
        sent = end;
      }
      if (sent === data.byteLength && !finished && limit > 0) {
        finished = true;
        say({ t: "fin", o: sent });
      }
    };
    channel.onmessage = ({ data: message }) => {
      if (typeof message !== "string") {
        chunks.push(message);
        received += message.byteLength;
        if (received - announced >= 16384) {
          announced = received;
          say({ t: "ack", o: received, w: 262144 });
        }
        return;
      }
      const control = JSON.parse(message);
      if (control.t === "ok") limit = Math.max(limit, control.w);
      else if (control.t === "ack") { limit = Math.max(limit, control.o + control.w); acked = control.o; }
      else if (control.t === "fin") {
        say({ t: "ack", o: control.o, w: 262144 });
        if (control.o !== received) no(new Error(`fin at ${control.o}, received ${received}`));
        else yes({ bytes: join(chunks), acked });
      } else if (control.t === "err" || control.t === "rst") no(new Error(message));
      pump();
    };
    channel.onclose = () => no(new Error("closed before the end"));
  });
}

window.exchange = async ({ homeserver, user, password, peer }) => {
  const log = [];
  try {
    const client = await login(homeserver, user, password);
    const room = await directRoom(client, peer);
    const before = performance.now();
    const { call, placed } = await placeCall(client, room, log);
    const raw = call.createDataChannel("raw-echo", { protocol: "raw.mxrtc" });
    const tcp = call.createDataChannel("digest", { protocol: "tcp.v1.mxrtc" });
    const refused = call.createDataChannel("nothing", { protocol: "tcp.v1.mxrtc" });
    const forbidden = call.createDataChannel("digest", { protocol: "raw.mxrtc" });
    const refusal = tcpExchange(refused, new Uint8Array(0)).then(() => "served", (error) => error.message);
    const closed = new Promise((yes) => { forbidden.onclose = () => yes(true); });
    const tcpData = random(2 * 1024 * 1024 + 5);
    const digest = tcpExchange(tcp, tcpData);
    await placed;
    await within(20000, "open channel", raw.readyState === "open" ? Promise.resolve() : once(raw, "open"));
    const setupMs = performance.now() - before;
    const rawData = random(300001);
    const echoed = await rawEcho(raw, rawData);
    const { bytes } = await within(30000, "digest", digest);
    const result = {
      setupMs,
      rawEqual: (await sha256(echoed)) === (await sha256(rawData)),
      digestEqual: new TextDecoder().decode(bytes).trim() === (await sha256(tcpData)),
      refusal: await within(10000, "refusal", refusal),
      rawForbiddenClosed: await within(10000, "close of the forbidden channel", closed),
      state: call.state,
      log,
    };
    call.hangup("user_hangup", false);
    client.stopClient();
    return result;
  } catch (error) {
    return { failed: String(error), log };
  }
};
