// A peer of a W3C implementation for Node.js, named by the first argument, that speaks the lines of peer.mjs.
import { webcrypto } from "node:crypto";
import readline from "node:readline";
import { serve } from "./w3c.js";

globalThis.crypto ??= webcrypto;  // Node.js 18 has it under this name only
const say = (message) => process.stdout.write(JSON.stringify(message) + "\n");
const name = process.argv[2];
const { default: module, ...named } = await import(name);
const { RTCPeerConnection } = { ...module, ...named };
const handle = serve(RTCPeerConnection, say, name === "werift" ? { iceAdditionalHostAddresses: ["127.0.0.1"] } : {});

readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const command = JSON.parse(line);
  await handle(command);
  if (command.kind === "quit") process.exit(0);
});
