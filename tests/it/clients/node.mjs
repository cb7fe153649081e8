// Node's clients: `node node.mjs URL`. Prints `ok`, or fails with what it saw.

import assert from "node:assert";
import http from "node:http";

const url = process.argv[2];
const item = '{"id":"5","tenant":"asd"}';
const json = { "Content-Type": "application/json" };
const large = "[" + " ".repeat(12 << 20) + "]";

const post = async (path, body, headers, method = "POST") => {
  const answer = await fetch(url + path, { method, body, headers });
  await answer.text();
  return answer.status;
};

for (let i = 0; i < 3; i += 1) assert.equal(await post("/items", large, json), 413);
for (let i = 0; i < 10; i += 1) {
  assert.equal(await post("/items", "x".repeat(300_000), { "Content-Type": "text/xml" }), 415);
  assert.equal(await post("/item", "x".repeat(300_000), json), 404);
  assert.equal(await post("/items", "x".repeat(300_000), json, "PUT"), 405);
  assert.equal(await post("/items", item, json), 200);
}

// One connection for all, and a body with a GET, as fetch sends none.
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const ask = (method, path, body) =>
  new Promise((resolve, reject) => {
    // Without its length, Node sends a body with a GET as if it were the next request.
    const headers = { ...json, "Content-Length": body.length };
    const request = http.request(url + path, { method, agent, headers }, (answer) => {
      let text = "";
      answer.on("data", (part) => (text += part));
      answer.on("end", () => resolve([answer.statusCode, text]));
    });
    request.on("error", reject);
    request.end(body);
  });
for (let i = 0; i < 300; i += 1) {
  assert.equal((await ask("POST", "/items", item))[0], 200);
  const [status, text] = await ask("GET", "/items/asd/count", item);
  assert.equal(status, 200);
  assert.equal(JSON.parse(text).count, 1);
}
agent.destroy();
console.log("ok");
