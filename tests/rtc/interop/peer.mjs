// A libdatachannel peer driven by lines of JSON on standard input and output; used by the interoperability tests.
// It echoes every message, and reports what it sees. On a channel of the protocol "sink" it keeps what is binary, and
// answers each text with the SHA-256 of that. The commands, each with a "kind":
//
//   open         open the channel "label" with "protocol"; the first one makes an offer; with "id" one that counts as
//                agreed on by both sides
//   description  take the other side's "sdp" of "type"; an offer is answered
//   close        close the channel "label"
//   flood        send "total" bytes, the words 0, 1, 2, ... of 32 bits, in messages of "size" on "label", as fast as its
//                buffer allows; pages and pion say "waiting" for each second in which it allows nothing
//   quit         close the connection and end
import { createHash } from "node:crypto";
import readline from "node:readline";
import nodeDataChannel from "node-datachannel";

const say = (message) => process.stdout.write(JSON.stringify(message) + "\n");
const peer = new nodeDataChannel.PeerConnection("libdatachannel", {
  iceServers: [],
  bindAddress: "127.0.0.1",
});
let description;
const channels = new Map();

peer.onLocalDescription((sdp, type) => { description = { sdp, type }; });
peer.onGatheringStateChange((state) => {
  if (state === "complete") {
    const local = peer.localDescription() ?? description;
    say({ kind: "description", sdp: local.sdp, type: local.type });
  }
});
peer.onStateChange((state) => say({ kind: "state", state }));
peer.onDataChannel(watch);

function watch(channel) {
  const label = channel.getLabel();
  channels.set(label, channel);
  const seen = channel.getProtocol() === "sink" ? createHash("sha256") : undefined;
  const opened = () => say({ kind: "open", label, protocol: channel.getProtocol() });
  if (channel.isOpen()) opened(); else channel.onOpen(opened);
  channel.onClosed(() => say({ kind: "closed", label }));
  channel.onMessage((message) => {
    if (seen && typeof message === "string") channel.sendMessage(seen.copy().digest("hex"));
    else if (seen) seen.update(message);
    else if (typeof message === "string") channel.sendMessage(message);
    else channel.sendMessageBinary(Buffer.from(message));
  });
}

function flood(channel, total, size) {
  let left = total;
  let word = 0;
  channel.setBufferedAmountLowThreshold(256 * 1024);
  const more = () => {
    while (left > 0 && channel.bufferedAmount() < 1024 * 1024) {
      const words = Uint32Array.from({ length: size / 4 }, () => word++);
      channel.sendMessageBinary(Buffer.from(words.buffer));
      left -= size;
    }
    if (left <= 0) say({ kind: "flooded", label: channel.getLabel() });
  };
  channel.onBufferedAmountLow(() => { if (left > 0) more(); });
  more();
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const command = JSON.parse(line);
  if (command.kind === "open") {
    const agreed = command.id === undefined ? {} : { negotiated: true, id: command.id };
    watch(peer.createDataChannel(command.label, { protocol: command.protocol, ...agreed }));
  }
  if (command.kind === "description") peer.setRemoteDescription(command.sdp, command.type);
  if (command.kind === "close") channels.get(command.label)?.close();
  if (command.kind === "flood") flood(channels.get(command.label), command.total, command.size);
  if (command.kind === "quit") { peer.close(); nodeDataChannel.cleanup(); process.exit(0); }
});
