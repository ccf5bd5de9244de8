// The benchmark's workflows as a Restate service: every step is a `ctx.run` in this process.
//
//     node restate_service.mjs PORT        (in the folder that has node_modules)
//
// It writes a line of JSON when it listens.

import http2 from "node:http2";
import { createRequire } from "node:module";
import path from "node:path";

// The SDK calls this function of Node 22; older ones get it here.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new this((fulfil, refuse) => ((resolve = fulfil), (reject = refuse)));
  return { promise, resolve, reject };
};

const restate = createRequire(path.join(process.cwd(), "_"))("@restatedev/restate-sdk");

const step = () => ({ ok: true });

const bench = restate.service({
  name: "Bench",
  handlers: {
    async chain(ctx) {
      let result;
      for (let number = 0; number < 5; number += 1) result = await ctx.run(`step_${number}`, step);
      return result;
    },
    async diamond(ctx) {
      await ctx.run("start", step);
      await restate.RestatePromise.all([ctx.run("left", step), ctx.run("right", step)]);
      return ctx.run("join", step);
    },
    async fanout(ctx) {
      const parts = [];
      for (let number = 0; number < 100; number += 1) parts.push(ctx.run(`part_${number}`, step));
      await restate.RestatePromise.all(parts);
      return ctx.run("join", step);
    },
  },
});

const endpoint = restate.endpoint().bind(bench).http2Handler();
http2.createServer(endpoint).listen(Number(process.argv[2]), "127.0.0.1", () => console.log("{}"));
