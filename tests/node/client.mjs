// One connection of node's `ws`, driven by lines of JSON: messages to send on stdin ({"text": ...} or
// {"binary": base64}), and on stdout what happened: first {"status", "subprotocol"}, then messages in
// the same form, at last {"code", "reason"}. The end of stdin closes.
import { createInterface } from "node:readline";
import WebSocket from "ws";

const { url, offer, headers } = JSON.parse(process.argv[2]);
const say = (event) => process.stdout.write(JSON.stringify(event) + "\n");
const socket = new WebSocket(url, offer, { headers });

socket.on("open", () => say({ status: 101, subprotocol: socket.protocol || null }));
socket.on("unexpected-response", (request, response) => {
  say({ status: response.statusCode, subprotocol: null });
  request.destroy();
  process.stdin.destroy();
});
socket.on("message", (data, binary) =>
  say(binary ? { binary: data.toString("base64") } : { text: data.toString() }),
);
socket.on("error", (error) => {
  // A destroyed request reports itself as well.
  if (socket.readyState === WebSocket.OPEN) say({ error: String(error) });
});
socket.on("close", (code, reason) => {
  say({ code, reason: reason.toString() });
  process.stdin.destroy();
});

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const said = JSON.parse(line);
  socket.send("text" in said ? said.text : Buffer.from(said.binary, "base64"));
});
lines.on("close", () => {
  if (socket.readyState === WebSocket.OPEN) socket.close(1000);
});
