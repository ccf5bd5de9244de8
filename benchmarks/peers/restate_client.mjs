// The client of the benchmark's Restate service, which times the workflows.
//
//     node restate_client.mjs INGRESS_URL
//
// It writes a line of JSON when it is connected, and answers each line of JSON that it reads with another one:
//
//     {"measure": "settings"}                                                          {"client": …}
//     {"measure": "latency", "workflow": "chain", "runs": 20, "seconds_max": 5}        {"ms": [12.3, …]}
//     {"measure": "burst", "workflow": "chain", "seconds": 5}                          {"tasks": 900, "seconds": 5.1}

import http2 from "node:http2";
import readline from "node:readline";

// Invocations under way at once in a burst.
const BURST_INVOCATIONS = 200;

const session = http2.connect(process.argv[2]);

function invoke(workflow) {
  return new Promise((fulfil, refuse) => {
    const headers = { ":method": "POST", ":path": `/Bench/${workflow}`, "content-type": "application/json" };
    const request = session.request(headers);
    let status;
    let text = "";
    request.on("response", (found) => (status = found[":status"]));
    request.on("data", (part) => (text += part));
    request.on("end", () => (status === 200 ? fulfil() : refuse(new Error(`${status} ${text}`))));
    request.on("error", refuse);
    request.end("{}");
  });
}

async function latency({ workflow, runs, seconds_max }) {
  const end = performance.now() + seconds_max * 1000;
  const ms = [];
  while (ms.length === 0 || (ms.length < runs && performance.now() < end)) {
    const started = performance.now();
    await invoke(workflow);
    ms.push(performance.now() - started);
  }
  return { ms };
}

async function burst({ workflow, seconds }) {
  const started = performance.now();
  const end = started + seconds * 1000;
  let tasks = 0;
  async function oneAfterTheOther() {
    while (performance.now() < end) {
      await invoke(workflow);
      tasks += 1;
    }
  }
  await Promise.all(Array.from({ length: BURST_INVOCATIONS }, oneAfterTheOther));
  return { tasks, seconds: (performance.now() - started) / 1000 };
}

async function answer(request) {
  if (request.measure === "latency") return latency(request);
  if (request.measure === "burst") return burst(request);
  return { client: `HTTP/2, ${BURST_INVOCATIONS} invocations at once in a burst` };
}

session.on("connect", async () => {
  console.log("{}");
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const found = await answer(JSON.parse(line)).catch((error) => ({ error: String(error) }));
    console.log(JSON.stringify(found));
  }
  process.exit(0);
});
