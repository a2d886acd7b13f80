// file.v1.mxrtc in a page: puts files into a drop box and fetches them from a share, from docs/reference/file-protocol.md
// alone. Resuming is left out: each file is sent, and asked for, from its beginning.
import { PAYLOAD, directRoom, join, login, placeCall, random, sha256, within } from "./signalling.js";

const CHUNK = 1024 * 1024;
const WINDOW = 262144;

// What both sides do: text is control, binary is payload, and the end is a "bye" from both.
function converse(channel, job, { control, payload }) {
  channel.binaryType = "arraybuffer";
  const say = (message) => channel.send(JSON.stringify(message));
  return new Promise((yes, no) => {
    // Digests are made asynchronously, and messages must be taken in their order all the same.
    let before = Promise.resolve();
    channel.onopen = () => { say(job); if (job.t !== "put") say({ t: "ack", o: 0, w: WINDOW }); };
    channel.onclose = () => before.then(() => no(new Error("closed before the end")));
    channel.onmessage = ({ data }) => {
      before = before.then(async () => {
        if (typeof data !== "string") return payload(data, say);
        const message = JSON.parse(data);
        if (message.t === "err" || message.t === "rst") throw new Error(data);
        const result = await control(message, say);
        if (result !== undefined) yes(result);
      }).catch(no);
    };
  });
}

// Puts files, each { path, bytes, time }; gives the names under which they were published, and what was refused.
function upload(channel, files) {
  const names = [], refused = [];
  let sent = 0, limit = 0, wake = () => {}, wanted = 0, served = Promise.resolve();
  const credit = async () => {
    while (sent >= limit) await new Promise((yes) => { wake = yes; });
    return limit - sent;
  };
  async function serve(say, i, offset) {
    const { bytes } = files[i];
    for (let at = offset; at < bytes.byteLength;) {
      const chunkEnd = Math.min((Math.floor(at / CHUNK) + 1) * CHUNK, bytes.byteLength);
      const end = Math.min(at + PAYLOAD, chunkEnd, at + await credit());
      channel.send(bytes.subarray(at, end));
      sent += end - at;
      at = end;
      if (at === chunkEnd && at < bytes.byteLength) {
        const n = Math.floor((at - 1) / CHUNK);
        say({ t: "c", i, n, h: await sha256(bytes.subarray(n * CHUNK, at)) });
      }
    }
    say({ t: "end", i, s: bytes.byteLength, h: await sha256(bytes) });
  }
  const control = async (message, say) => {
    if (message.t === "ok") {
      limit = message.w;
      files.forEach(({ path, bytes, time }, i) =>
        say({ t: "f", i, k: "f", p: path, s: bytes.byteLength, m: time, x: `${bytes.byteLength}-${time}` }));
      say({ t: "fend", n: files.length, s: files.reduce((sum, { bytes }) => sum + bytes.byteLength, 0) });
    } else if (message.t === "ack") { limit = Math.max(limit, message.o + message.w); wake(); }
    else if (message.t === "want") {
      wanted += 1;
      served = served.then(() => serve(say, message.i, message.o));
    } else if (message.t === "got") names[message.i] = message.p;
    else if (message.t === "no") refused.push(message);
    else if (message.t === "bye") { channel.onclose = null; channel.close(); return { names, refused, wanted }; }
    const answered = Object.keys(names).length + refused.length;
    if ((message.t === "got" || message.t === "no") && answered === files.length) served.then(() => say({ t: "bye" }));
  };
  return converse(channel, { t: "put" }, { control, payload: () => { throw new Error("payload for a source"); } });
}

// Fetches what the patterns select; gives [path, bytes] of each file.
function download(channel, patterns) {
  const entries = [], wanted = [], files = [];
  let chunks = [], received = 0, announced = 0;
  const payload = (data, say) => {
    chunks.push(data);
    received += data.byteLength;
    if (received - announced >= 65536) say({ t: "ack", o: (announced = received), w: WINDOW });
  };
  const control = async (message, say) => {
    if (message.t === "f") {
      entries[message.i] = message;
      if (message.k === "d") say({ t: "got", i: message.i, p: message.p });
      else { wanted.push(message.i); say({ t: "want", i: message.i, o: 0 }); }
    } else if (message.t === "c") {
      const chunk = join(chunks).subarray(message.n * CHUNK);
      if (await sha256(chunk) !== message.h) throw new Error(`chunk ${message.n} is not what was sent`);
    } else if (message.t === "end") {
      const bytes = join(chunks);
      if (wanted.shift() !== message.i || await sha256(bytes) !== message.h) throw new Error("not what was sent");
      chunks = [];
      files.push([entries[message.i].p, bytes]);
      say({ t: "got", i: message.i, p: entries[message.i].p, h: message.h });
    } else if (message.t === "no") throw new Error(JSON.stringify(message));
    else if (message.t === "bye") { say({ t: "bye" }); channel.onclose = null; channel.close(); return files; }
  };
  return converse(channel, { t: "get", p: patterns }, { control, payload });
}

window.transfer = async ({ homeserver, user, password, peer }) => {
  const log = [];
  try {
    const client = await login(homeserver, user, password);
    const { call, placed } = await placeCall(client, await directRoom(client, peer), log);
    const time = 1700000000000;
    const sources = [
      { path: "empty", bytes: new Uint8Array(0), time },
      { path: "trip/päge.txt", bytes: random(1000), time },
      { path: "trip/large.bin", bytes: random(5 * CHUNK + 7), time },
      { path: "exact.bin", bytes: random(2 * CHUNK), time },
      { path: "../escape", bytes: random(10), time },
    ];
    const bad = sources.pop();
    const channel = (label) => call.createDataChannel(label, { protocol: "file.v1.mxrtc" });
    const putting = upload(channel("inbox"), sources);
    const violating = upload(channel("inbox"), [bad]).then(() => "taken", (error) => error.message);
    const refusing = download(channel("inbox"), ["**"]).then(() => "served", (error) => error.message);
    const getting = download(channel("outbox"), ["album"]);
    await placed;
    const result = {
      put: await within(60000, "upload", putting),
      sent: await Promise.all(sources.map(async ({ path, bytes }) => [path, await sha256(bytes)])),
      violation: await within(20000, "end of the violation", violating),
      refusal: await within(20000, "refusal", refusing),
      got: await Promise.all((await within(60000, "download", getting)).map(async ([p, b]) => [p, await sha256(b)])),
      log,
    };
    call.hangup("user_hangup", false);
    client.stopClient();
    return result;
  } catch (error) {
    return { failed: String(error), log };
  }
};
