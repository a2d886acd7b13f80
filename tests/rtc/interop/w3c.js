// A peer over the RTCPeerConnection of the W3C, driven by the commands that peer.mjs describes. Node programs and the
// page of the browsers share it, so it uses nothing but what all of them have.

export function serve(RTCPeerConnection, say, configuration = {}) {
  const peer = new RTCPeerConnection({ iceServers: [], ...configuration });
  const channels = new Map();

  function watch(channel) {
    const label = channel.label;
    channels.set(label, channel);
    channel.binaryType = "arraybuffer";
    // Some hand over messages before they say that the channel is open, and its state may change between the two: what
    // came before must still go back first.
    const early = [];
    let told = false;
    const seen = channel.protocol === "sink" ? [] : undefined;
    const opened = () => {
      told = true;
      say({ kind: "open", label, protocol: channel.protocol });
      early.forEach((data) => channel.send(data));
    };
    if (channel.readyState === "open") opened(); else channel.onopen = opened;
    channel.onclose = () => say({ kind: "closed", label });
    channel.onmessage = ({ data }) => {
      if (seen && typeof data === "string") digest(seen).then((sum) => channel.send(sum));
      else if (seen) seen.push(data);
      else if (!told) early.push(data);
      else if (channel.readyState === "open") channel.send(data);
    };
  }

  // What is not sent in one go waits until the buffer is low, as a page would write it.
  function flood(channel, total, size) {
    let left = total;
    let word = 0;
    channel.bufferedAmountLowThreshold = 256 * 1024;
    let since = performance.now();
    const more = () => {
      if (performance.now() - since >= 1000) {
        since = performance.now();
        say({ kind: "waiting", label: channel.label });
      }
      while (left > 0 && channel.bufferedAmount < 1024 * 1024) {
        const words = Uint32Array.from({ length: size / 4 }, () => word++);
        channel.send(new Uint8Array(words.buffer));  // werift takes a byte of each word otherwise
        since = performance.now();
        left -= size;
      }
      if (left <= 0 && timer !== undefined) {
        channel.onbufferedamountlow = null;
        clearInterval(timer);
        timer = undefined;
        say({ kind: "flooded", label: channel.label });
      }
    };
    channel.onbufferedamountlow = more;
    let timer = setInterval(more, 20);  // @roamhq/wrtc does not always tell
    more();
  }

  async function digest(parts) {
    const sum = await crypto.subtle.digest("SHA-256", await new Blob(parts).arrayBuffer());
    return Array.from(new Uint8Array(sum), (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  const describe = () => {
    const { sdp, type } = peer.localDescription;
    say({ kind: "description", sdp, type });
  };
  async function setLocal(description) {
    const complete = new Promise((resolve) => {
      const look = () => { if (peer.iceGatheringState === "complete") resolve(); };
      peer.onicegatheringstatechange = look;
      peer.onicecandidate = look;  // werift has the one event, the others have both
      peer.setLocalDescription(description).then(look);
    });
    await complete;
    describe();
  }

  peer.ondatachannel = ({ channel }) => watch(channel);
  peer.onconnectionstatechange = () => say({ kind: "state", state: peer.connectionState });

  async function handle(command) {
    const { kind, label } = command;
    if (kind === "open") {
      const agreed = command.id === undefined ? {} : { negotiated: true, id: command.id };
      watch(peer.createDataChannel(label, { protocol: command.protocol, ...agreed }));
      if (peer.localDescription === null || peer.localDescription === undefined) await setLocal(await peer.createOffer());
    } else if (kind === "description") {
      await peer.setRemoteDescription({ type: command.type, sdp: command.sdp });
      if (command.type === "offer") await setLocal(await peer.createAnswer());
    } else if (kind === "close") {
      channels.get(label).close();
    } else if (kind === "flood") {
      flood(channels.get(label), command.total, command.size);
    } else if (kind === "quit") {
      await peer.close();
    }
  }
  // In order, one after the other: a description is not to overtake the one before it.
  let last = Promise.resolve();
  return (command) => {
    last = last.then(() => handle(command)).catch((error) => say({ kind: "failed", reason: String(error) }));
    return last;
  };
}
