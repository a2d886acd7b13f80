// Verification by emoji as today's clients do it: matrix-js-sdk with its Rust crypto and an identity of the user's own.
// The test gives `window.decide`: it is asked whether the emoji are those of the other side.
import { CryptoEvent, VerificationPhase, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/index.js";
import { directRoom, login, within } from "./signalling.js";

async function start({ homeserver, user, password }) {
  const client = await login(homeserver, user, password, (fresh) => fresh.initRustCrypto({ useIndexedDB: false }));
  await client.getCrypto().bootstrapCrossSigning({
    setupNewCrossSigning: true,
    authUploadDeviceSigningKeys: (send) =>
      send({ type: "m.login.password", identifier: { type: "m.id.user", user }, password }),
  });
  return client;
}

const until = (request, met) =>
  within(60000, `a phase after ${VerificationPhase[request.phase]}`, new Promise((yes) => {
    const look = () => (met(request) || request.phase === VerificationPhase.Cancelled) && yes();
    request.on("change", look);
    look();
  }));

// Compares as the test says, and returns what became of it.
async function compare(request, starts) {
  if (starts) {
    await until(request, (each) => each.phase === VerificationPhase.Ready);
    await request.startVerification("m.sas.v1");
  }
  await until(request, (each) => each.verifier);
  const { verifier } = request;
  if (!verifier) return { cancelled: request.cancellationCode };
  const shown = within(60000, "emoji", new Promise((yes) => {
    const given = verifier.getShowSasCallbacks();
    if (given) return yes(given);
    verifier.once(VerifierEvent.ShowSas, yes);
  }));
  const verified = verifier.verify().then(() => null, (error) => String(error));
  const sas = await Promise.race([shown, verified.then(() => null)]);
  if (!sas) return { cancelled: request.cancellationCode };
  const names = sas.sas.emoji.map(([, name]) => name);
  if (await window.decide(names, sas.sas.decimal)) await sas.confirm();
  else sas.mismatch();
  const failed = await within(60000, "end", verified);
  return { names, failed, cancelled: request.cancellationCode, phase: VerificationPhase[request.phase] };
}

// What this client thinks of a device, once the signature has made its way to the homeserver and back.
async function judged(client, user, device, wanted) {
  return within(20000, "signature", (async () => {
    for (;;) {
      await client.getCrypto().getUserDeviceInfo([user], true);
      const status = await client.getCrypto().getDeviceVerificationStatus(user, device);
      const found = { signedByOwner: status?.signedByOwner, crossSigningVerified: status?.crossSigningVerified };
      if (found.signedByOwner || !wanted) return found;
      await new Promise((yes) => setTimeout(yes, 100));
    }
  })());
}

// Waits for a request of another session of this user.
window.acceptOwn = async (options) => {
  try {
    const client = await start(options);
    const asked = new Promise((yes) => client.on(CryptoEvent.VerificationRequestReceived, yes));
    await window.ready(client.deviceId);
    const request = await within(60000, "request", asked);
    const device = request.otherDeviceId;
    await request.accept();
    const result = await compare(request, false);
    const outcome = { ...result, device, status: await judged(client, client.getUserId(), device, !result.failed) };
    client.stopClient();
    return outcome;
  } catch (error) {
    return { failed: String(error) };
  }
};

// Asks a given session of this user.
window.askOwn = async (options) => {
  try {
    const client = await start(options);
    await client.getCrypto().getUserDeviceInfo([client.getUserId()], true);
    const request = await client.getCrypto().requestDeviceVerification(client.getUserId(), options.device);
    await window.ready(client.deviceId);
    const result = await compare(request, true);
    const outcome = { ...result, status: await judged(client, client.getUserId(), options.device, !result.failed) };
    client.stopClient();
    return outcome;
  } catch (error) {
    return { failed: String(error) };
  }
};

// Verifies a peer in the direct chat with it, as people do in Element.
window.verifyPeer = async (options) => {
  try {
    const client = await start(options);
    const crypto = client.getCrypto();
    const room = await directRoom(client, options.peer);
    await within(10000, "encryption of the room", (async () => {
      while (!(await crypto.isEncryptionEnabledInRoom(room))) await new Promise((yes) => setTimeout(yes, 50));
    })());
    await crypto.getUserDeviceInfo([options.peer], true);
    const request = await crypto.requestVerificationDM(options.peer, room);
    await window.ready(client.deviceId);
    const result = await compare(request, true);
    // As for a device: the signature has to make its way to the homeserver and back.
    const verified = await within(20000, "signature", (async () => {
      for (;;) {
        await crypto.getUserDeviceInfo([options.peer], true);
        const status = await crypto.getUserVerificationStatus(options.peer);
        if (status.isCrossSigningVerified() || result.failed) return status.isCrossSigningVerified();
        await new Promise((yes) => setTimeout(yes, 100));
      }
    })());
    client.stopClient();
    return { ...result, verified };
  } catch (error) {
    return { failed: String(error) };
  }
};
