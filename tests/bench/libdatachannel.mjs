// One end of a bare data channel with libdatachannel: the same words as tests/bench/channel.py, as a yardstick.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../rtc/interop/package.json", import.meta.url));
const ndc = require("node-datachannel");

const MESSAGE = Buffer.alloc(16 * 1024);
const START = Buffer.from("SS"), STOP = Buffer.from("EE"), ONE = Buffer.from("x");
const LOW = 256 * 1024;
const offers = process.argv[2] === "offer";
const channels = [];
let echoed, total = 0, began = 0n, opened;
const open = new Promise((yes) => { opened = yes; });

const connection = new ndc.PeerConnection(process.argv[2], { iceServers: [], bindAddress: process.argv[3] ?? "127.0.0.1" });
const gathered = new Promise((yes) => connection.onGatheringStateChange((state) => state === "complete" && yes()));

function attach(channel) {
  channels.push(channel);
  let ready = channel.isOpen();
  const done = () => { if (channels.length === 2 && channels.every((c) => c.isOpen())) opened(); };
  channel.onOpen(done);
  if (ready) done();
  channel.setBufferedAmountLowThreshold(LOW / 2);
  channel.onMessage((data) => {
    const bytes = Buffer.from(data);
    if (bytes.length === 1) {
      if (offers) echoed?.();
      else channel.sendMessageBinary(bytes);
    } else if (bytes.equals(START)) {
      total = 0;
      began = process.hrtime.bigint();
    } else if (bytes.equals(STOP)) {
      console.log(`received ${total} in ${(Number(process.hrtime.bigint() - began) / 1e9).toFixed(3)}`);
    } else total += bytes.length;
  });
}

const room = (channel) => channel.bufferedAmount() <= LOW ? Promise.resolve()
  // The callback comes from another thread and may have come already: so look again by the clock as well.
  : new Promise((yes) => { channel.onBufferedAmountLow(yes); setTimeout(yes, 1); });

let sent = 0;

async function bulk(seconds, ended = () => false) {
  channels[0].sendMessageBinary(START);
  const end = Date.now() + seconds * 1000;
  for (let count = 0; Date.now() < end && !ended(); count++) {
    await room(channels[0]);
    channels[0].sendMessageBinary(MESSAGE);
    sent += MESSAGE.length;
    if (count % 64 === 0) await new Promise(setImmediate);
  }
  channels[0].sendMessageBinary(STOP);
  console.log("sent");
}

async function ping(count) {
  const times = [];
  const already = sent, began = process.hrtime.bigint();
  for (let i = 0; i < count; i++) {
    const before = process.hrtime.bigint();
    const back = new Promise((yes) => { echoed = yes; });
    channels[1].sendMessageBinary(ONE);
    await back;
    times.push(Number(process.hrtime.bigint() - before) / 1e6);
    await new Promise((yes) => setTimeout(yes, 3));
  }
  const rate = (sent - already) / (Number(process.hrtime.bigint() - began) / 1e3);
  times.sort((a, b) => a - b);
  const [median, p95] = [times[times.length >> 1], times[Math.floor(times.length * 0.95)]];
  console.log(`ping median ${median.toFixed(3)} p95 ${p95.toFixed(3)} beside ${rate.toFixed(1)} MB/s`);
}

async function describe() {
  await gathered;
  console.log(JSON.stringify({ sdp: connection.localDescription().sdp }));
}

if (offers) {
  attach(connection.createDataChannel("bench"));
  attach(connection.createDataChannel("pings"));
  await describe();
} else connection.onDataChannel(attach);

let described = false;
for await (const line of createInterface({ input: process.stdin })) {
  const [word, number] = line.split(" ");
  if (!described) {
    described = true;
    connection.setRemoteDescription(JSON.parse(line).sdp, offers ? "answer" : "offer");
    if (!offers) await describe();
    open.then(() => offers && console.log("connected"));
  } else if (word === "bulk") await bulk(Number(number));
  else if (word === "ping") await ping(Number(number));
  else if (word === "both") {
    let over = false;
    const sending = bulk(3600, () => over);
    await new Promise((yes) => setTimeout(yes, 1000));
    await ping(Number(number));
    over = true;
    await sending;
  } else if (word === "cpu") {
    const { user, system } = process.cpuUsage();
    console.log(`cpu ${((user + system) / 1e6).toFixed(3)} rss ${process.resourceUsage().maxRSS}`);
  } else if (word === "end") break;
}
connection.close();
ndc.cleanup();
process.exit(0);
