// An encrypted direct chat, as today's clients make it: matrix-js-sdk with its Rust crypto, an identity of the user's own,
// and (when asked) nothing to do with devices that their users have not signed.
import { OnlySignedDevicesIsolationMode } from "matrix-js-sdk/lib/crypto-api/index.js";
import { PAYLOAD, directRoom, join, login, once, placeCall, random, sha256, within } from "./signalling.js";

async function bootstrap(client, user, password) {
  await client.getCrypto().bootstrapCrossSigning({
    authUploadDeviceSigningKeys: (send) =>
      send({ type: "m.login.password", identifier: { type: "m.id.user", user }, password }),
  });
}

async function echo(channel, data) {
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
  if (channel.readyState !== "open") await within(20000, "open channel", once(channel, "open"));
  for (let at = 0; at < data.byteLength; at += PAYLOAD) channel.send(data.subarray(at, at + PAYLOAD));
  await within(30000, "echo", all);
  return join(chunks);
}

// What this client thinks of everything that the peer has said in the room.
async function judged(client, room, peer) {
  const crypto = client.getCrypto();
  const events = client.getRoom(room).getLiveTimeline().getEvents();
  const said = events.filter((event) => event.getSender() === peer && !event.isState());
  return Promise.all(said.map(async (event) => {
    const info = await crypto.getEncryptionInfoForEvent(event);
    return {
      type: event.getType(),
      encrypted: event.isEncrypted(),
      failed: event.isDecryptionFailure(),
      body: event.getContent().body,
      shield: info?.shieldColour,
      shieldReason: info?.shieldReason,
      device: event.getWireContent().device_id,
    };
  }));
}

async function devices(client, peer) {
  const crypto = client.getCrypto();
  const known = (await crypto.getUserDeviceInfo([peer], true)).get(peer);
  return Promise.all([...(known?.keys() ?? [])].map(async (device) => {
    const status = await crypto.getDeviceVerificationStatus(peer, device);
    return { device, signedByOwner: status.signedByOwner, algorithms: known.get(device).algorithms };
  }));
}

async function start({ homeserver, user, password, isolate, sign }) {
  const client = await login(homeserver, user, password, async (fresh) => {
    await fresh.initRustCrypto({ useIndexedDB: false });
    if (isolate) fresh.getCrypto().setDeviceIsolationMode(new OnlySignedDevicesIsolationMode());
  });
  if (sign) await bootstrap(client, user, password);
  return client;
}

window.encryptedCall = async (options) => {
  const log = [];
  try {
    const client = await start(options);
    const { peer } = options;
    const room = await directRoom(client, peer);
    const encrypted = await within(10000, "encryption of the room", (async () => {
      while (!(await client.getCrypto().isEncryptionEnabledInRoom(room))) await new Promise((yes) => setTimeout(yes, 50));
      return true;
    })());
    const before = performance.now();
    const { call, placed } = await placeCall(client, room, log);
    const channel = call.createDataChannel("raw-echo", { protocol: "raw.mxrtc" });
    await placed;
    await within(20000, "open channel", channel.readyState === "open" ? Promise.resolve() : once(channel, "open"));
    const setupMs = performance.now() - before;
    const data = random(200001);
    const equal = (await sha256(await echo(channel, data))) === (await sha256(data));
    call.hangup("user_hangup", false);
    const result = { encrypted, setupMs, equal, log, said: await judged(client, room, peer), devices: await devices(client, peer) };
    await new Promise((yes) => setTimeout(yes, 300));
    client.stopClient();
    return result;
  } catch (error) {
    return { failed: String(error), log };
  }
};

// A session that lives until the bridge ends it, after the test has been told of it and has done something about it.
window.encryptedSession = async (options) => {
  const log = [];
  try {
    const client = await start(options);
    const room = await directRoom(client, options.peer, options.encrypt);
    const { call, placed } = await placeCall(client, room, log);
    const channel = call.createDataChannel("raw-echo", { protocol: "raw.mxrtc" });
    await placed;
    await within(20000, "open channel", channel.readyState === "open" ? Promise.resolve() : once(channel, "open"));
    const data = random(1000);
    const equal = (await sha256(await echo(channel, data))) === (await sha256(data));
    await window.opened(client.getDeviceId());
    await within(20000, "end of the channel", channel.readyState === "closed" ? Promise.resolve() : once(channel, "close"));
    return { closed: true, equal, log };
  } catch (error) {
    return { failed: String(error), log };
  }
};

// A call that the bridge is expected to refuse: what it says about it.
window.refusedCall = async (options) => {
  const log = [];
  try {
    const client = await start(options);
    const room = await directRoom(client, options.peer);
    const { call, placed } = await placeCall(client, room, log);
    call.createDataChannel("raw-echo", { protocol: "raw.mxrtc" });
    await placed;
    const said = await within(20000, "refusal", (async () => {
      for (;;) {
        const all = await judged(client, room, options.peer);
        if (call.state === "ended" && all.some((event) => event.body)) return all;
        await new Promise((yes) => setTimeout(yes, 50));
      }
    })());
    let taken = false;
    if (window.accepted) {
      // Once the admin has accepted what was wrong, the next call is taken.
      await window.accepted();
      const next = await placeCall(client, room, log);
      const channel = next.call.createDataChannel("raw-echo", { protocol: "raw.mxrtc" });
      await next.placed;
      await within(20000, "open channel", channel.readyState === "open" ? Promise.resolve() : once(channel, "open"));
      taken = true;
      next.call.hangup("user_hangup", false);
    }
    client.stopClient();
    return { state: call.state, said, log, taken };
  } catch (error) {
    return { failed: String(error), log };
  }
};

// Commands in an encrypted direct chat with the bot, one after the other: what it says.
window.encryptedChat = async (options) => {
  try {
    const client = await start(options);
    const room = await directRoom(client, options.bot);
    await within(10000, "encryption of the room", (async () => {
      while (!(await client.getCrypto().isEncryptionEnabledInRoom(room))) await new Promise((yes) => setTimeout(yes, 50));
    })());
    let said = [];
    for (const body of options.bodies) {
      if (window.before) await window.before(body);
      const before = said.length;
      await client.sendTextMessage(room, body);
      said = await within(20000, `answer to ${body}`, (async () => {
        for (;;) {
          const bodies = (await judged(client, room, options.bot)).filter((event) => event.body);
          if (bodies.length > before) return bodies;
          await new Promise((yes) => setTimeout(yes, 50));
        }
      })());
    }
    client.stopClient();
    return { said };
  } catch (error) {
    return { failed: String(error) };
  }
};
