// A Stepweave worker in plain Node. The P numbers are the clauses of worker/PROTOCOL.md that the code follows.
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { decodeDispatch, encode, failure, fault, success, token } from "./wire.mjs";

const option = (fallback) => ({ type: "string", default: fallback });
const { values: options } = parseArgs({ options: {
  "nats": option(process.env.NATS_URL ?? "nats://127.0.0.1:4222"),
  "namespace": option(process.env.NAMESPACE ?? "polyglot"),
  "queue": option(process.env.QUEUE ?? "node"),
  "handlers": option(fileURLToPath(new URL("handlers.mjs", import.meta.url))),
  "concurrency": option("4"), // tries at a time of each priority class
  "heartbeat-seconds": option("10"), "pull-seconds": option("2"), "grace-seconds": option("25"),
} });
const number = (name) => {
  if (Number(options[name]) > 0) return Number(options[name]);
  throw new TypeError(`--${name} is a number above 0, not ${options[name]}`);
};
const milliseconds = (name) => Math.round(1_000 * number(`${name}-seconds`));
const [HEARTBEAT_MS, PULL_MS, GRACE_MS] = ["heartbeat", "pull", "grace"].map(milliseconds);
const CONCURRENCY = number("concurrency"), STARTED_AFTER_MS = 250, ANSWER_MS = 2_000, TIMER_MS_MAX = 2 ** 31 - 1;
const WORKER_ID = `node-${token(hostname())}-${process.pid}-${randomBytes(4).toString("hex")}`; // P5
const CANCELLED = Symbol("the step was cancelled");

const handlers = await import(pathToFileURL(resolve(options.handlers)));
const addresses = options.nats.split(",").map((address) => new URL(address.includes("://") ? address : `nats://${address}`));
const [user, pass] = [addresses[0].username, addresses[0].password].map(decodeURIComponent);
const nc = await connect({ // P9
  servers: addresses.map((address) => address.host), user, pass,
  name: WORKER_ID, maxReconnectAttempts: -1, reconnectTimeWait: 500, waitOnFirstConnect: true,
});
const js = jetstream(nc);
const running = new Set();
let stopping = false;

function say(what, details) {
  console.error(JSON.stringify({ at: new Date().toISOString(), what, ...details }));
}

async function slot(priority) { // one try at a time; each class has slots of its own (P6, P7)
  const name = `${token(options.queue)}__${priority}`;
  const consumer = js.consumers.getConsumerFromInfo({ stream_name: `DISP_${token(options.namespace)}`, name, config: {} });
  for (let trouble = ""; !stopping;) {
    try {
      const message = await consumer.next({ expires: PULL_MS, bind: true });
      trouble = "";
      if (message) await take(message);
    } catch (error) { // P8
      if (error.message !== trouble) say("pulling again and again", { consumer: name, error: error.message });
      trouble = error.message;
      await sleep(1_000);
    }
  }
}

async function take(message) {
  const heartbeat = setInterval(() => message.working(), HEARTBEAT_MS); // P12
  try {
    const step = decodeDispatch(message);
    const deliveries = message.info.deliveryCount;
    const outcome = deliveries > 1 ? { kind: "lost", deliveries } // P11
      : stopping ? { kind: "released" } : await run(step); // P27
    if (outcome) await report(step, outcome);
    await message.ackAck({ timeout: ANSWER_MS }); // P21
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    say("not a dispatch", { error: error.message });
    message.term("not a dispatch"); // P10
  } finally {
    clearInterval(heartbeat);
  }
}

async function run(step) {
  if (!handlers[step.handler]) return { kind: "released", reason: "handler_missing" }; // P15
  const started_at_ms = Date.now();
  const abort = new AbortController();
  const entry = { step_uuid: step.step_uuid, abort };
  const announce = () => send(step, { kind: "started", started_at_ms }).catch((error) => say("not announced", { error: error.message }));
  const timers = [setTimeout(announce, STARTED_AFTER_MS)]; // P13
  if (step.timeout_ms) { // P14
    const late = fault(`no result within ${step.timeout_ms} ms`, "timeout", "STEP_TIMEOUT");
    timers.push(setTimeout(() => abort.abort(late), Math.min(step.timeout_ms, TIMER_MS_MAX)));
  }
  running.add(entry);
  let outcome;
  try {
    const handler = handlers[step.handler];
    const aborted = new Promise((_, reject) => abort.signal.addEventListener("abort", () => reject(abort.signal.reason)));
    const view = { ...step, signal: abort.signal, dependency: (name) => dependency(step, name) };
    outcome = success(await Promise.race([handler(view), aborted]));
  } catch (error) {
    if (error === CANCELLED) return null; // P16
    outcome = failure(error);
  } finally {
    running.delete(entry);
    timers.forEach(clearTimeout);
  }
  return { ...outcome, started_at_ms, duration_ms: Date.now() - started_at_ms };
}

function send(step, outcome) { // P18, P19
  const { task_id, step_uuid, step_name, attempt, lease_token } = step;
  const message = encode({ task_id, step_uuid, step_name, attempt, lease_token, worker_id: WORKER_ID, ...outcome });
  return js.publish(step.result_subject, message, { timeout: ANSWER_MS, msgID: `${lease_token}.${outcome.kind}` });
}

async function report(step, outcome) { // P19: until it is stored
  for (let pause_ms = 250; ; pause_ms = Math.min(2 * pause_ms, ANSWER_MS)) {
    try {
      return await send(step, outcome);
    } catch (error) {
      say("the result is not stored yet", { step_uuid: step.step_uuid, error: error.message });
      await sleep(pause_ms);
    }
  }
}

async function dependency(step, name) { // P17
  const { dependency_results: results, dependency_results_complete: complete } = step;
  if (Object.hasOwn(results, name) || complete) return results[name];
  for (let offset = 0; offset !== null;) {
    const question = encode({ task_id: step.task_id, step_name: step.step_name, offset });
    const answer = (await nc.request("sw.api.v1.task.results", question, { timeout: ANSWER_MS })).json();
    if (answer.error) throw fault(`${answer.error.code}: ${answer.error.message}`, "retryable_error", "RESULTS_UNAVAILABLE");
    if (Object.hasOwn(answer.results, name)) return answer.results[name];
    offset = answer.next_offset ?? null;
  }
}

nc.subscribe(`sw.ctl.${token(options.namespace)}.cancel`, { callback: (_, notice) => { // P16
  try {
    const { step_uuids } = notice.json();
    for (const entry of running) if (step_uuids.includes(entry.step_uuid)) entry.abort.abort(CANCELLED);
  } catch (error) {
    say("not a cancel notice", { error: error.message });
  }
} });

const drained = new Promise((finish) => {
  const stop = () => { // P26, P28
    stopping = true;
    say("draining", { running: running.size });
    const over = fault("the worker is shutting down", "retryable_error", "WORKER_SHUTDOWN");
    setTimeout(() => running.forEach((entry) => entry.abort.abort(over)), GRACE_MS);
    setTimeout(finish, GRACE_MS + ANSWER_MS, false);
  };
  process.once("SIGTERM", stop).once("SIGINT", stop);
  const slots = Array.from({ length: CONCURRENCY }, () => ["high", "normal", "low"].map(slot)).flat();
  Promise.all(slots).then(() => nc.drain()).then(() => finish(true));
});
say("ready", { worker_id: WORKER_ID, namespace: options.namespace, queue: options.queue });
process.exit(await drained ? 0 : 1);
