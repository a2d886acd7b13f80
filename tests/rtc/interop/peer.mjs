// A libdatachannel peer driven by lines of JSON on standard input and output; used by test_libdatachannel_interop.py.
// It echoes every message, and reports what it sees.
import readline from "node:readline";
import nodeDataChannel from "node-datachannel";

const say = (message) => process.stdout.write(JSON.stringify(message) + "\n");
const peer = new nodeDataChannel.PeerConnection("libdatachannel", {
  iceServers: [],
  bindAddress: "127.0.0.1",
});
let description;
const channels = [];

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
  channels.push(channel);
  const label = channel.getLabel();
  const opened = () => say({ kind: "open", label, protocol: channel.getProtocol() });
  if (channel.isOpen()) opened(); else channel.onOpen(opened);
  channel.onClosed(() => say({ kind: "closed", label }));
  channel.onMessage((message) => {
    if (typeof message === "string") channel.sendMessage(message);
    else channel.sendMessageBinary(Buffer.from(message));
  });
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const command = JSON.parse(line);
  if (command.kind === "open") watch(peer.createDataChannel(command.label, { protocol: command.protocol }));
  if (command.kind === "description") peer.setRemoteDescription(command.sdp, command.type);
  if (command.kind === "close") channels.find((channel) => channel.getLabel() === command.label)?.close();
  if (command.kind === "quit") { peer.close(); nodeDataChannel.cleanup(); process.exit(0); }
});
