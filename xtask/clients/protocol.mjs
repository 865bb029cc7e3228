// What the official TypeScript SDK finds in `pyro mcp serve`: its own checks of results, errors, progress and
// cancellation.
//
//     protocol.mjs MODULES TRANSPORT PROFILE
//
// MODULES is the directory of the installed packages. TRANSPORT is `stdio`, or `http` with the server's URL in PYRO_URL
// and its token in PYRO_TOKEN.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

const [modules, transport, profile] = process.argv.slice(2);
const require = createRequire(join(modules, "package.json"));
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = require("@modelcontextprotocol/sdk/client/stdio.js");
const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");

const counts = { "vm-run": 1, "workspace-core": 17, "workspace-full": 55 };
const client = new Client({ name: "test", version: "1" });

function connection() {
  if (transport === "stdio") {
    const args = ["mcp", "serve", "--profile", profile];
    return new StdioClientTransport({ command: process.env.PYRO, args, env: { ...process.env } });
  }
  const headers = { Authorization: `Bearer ${process.env.PYRO_TOKEN}` };
  return new StreamableHTTPClientTransport(new URL(process.env.PYRO_URL), { requestInit: { headers } });
}

async function call(name, args, options) {
  const result = await client.callTool({ name, arguments: args }, undefined, { timeout: 600_000, ...options });
  assert.equal(result.content.length, 1);
  return result;
}

/** The structured result of a call that must succeed. */
async function done(name, args, options) {
  const result = await call(name, args, options);
  assert.ok(!result.isError, `${name}: ${result.content[0].text}`);
  assert.deepEqual(JSON.parse(result.content[0].text), result.structuredContent);
  return result.structuredContent;
}

/** The error of a call that must fail. */
async function refusal(name, args) {
  const result = await call(name, args);
  assert.equal(result.isError, true);
  return JSON.parse(result.content[0].text).error;
}

function progress() {
  const notes = [];
  const told = () => {
    assert.ok(notes.length > 0, "progress was asked for");
    assert.ok(notes.every((note, at) => note.message && (at === 0 || note.progress > notes[at - 1].progress)));
  };
  return [{ onprogress: (note) => notes.push(note) }, told];
}

async function errors() {
  await assert.rejects(client.callTool({ name: "no_such_tool", arguments: {} }), (error) => {
    assert.equal(error.code, -32602);
    return error.message.includes("no_such_tool");
  });
  for (const args of [{ command: 1 }, {}, { command: "true", surplus: 1 }]) {
    assert.equal((await refusal("vm_run", args)).code, "invalid_arguments");
  }
}

async function oneShot() {
  const [options, told] = progress();
  const ran = await done("vm_run", { command: "echo out; echo err >&2; exit 3", mem_mib: 256 }, options);
  assert.deepEqual([ran.exit_code, ran.stdout, ran.stderr], [3, "out\n", "err\n"]);
  told();
}

async function workspace() {
  const [options, told] = progress();
  const { workspace_id } = await done("workspace_create", { mem_mib: 256 }, options);
  told();
  const run = (command) => done("workspace_exec", { workspace_id, command });
  try {
    assert.equal((await run("echo 1")).stdout, "1\n");
    const given = new AbortController();
    const long = { workspace_id, command: "touch begun; exec sleep 600.5", timeout_seconds: 600 };
    const pending = call("workspace_exec", long, { signal: given.signal });
    const rejected = assert.rejects(pending);
    assert.equal((await run("until test -e begun; do sleep 0.1; done")).exit_code, 0);
    given.abort();
    await rejected;
    assert.equal((await run("while grep -qs '600[.]5' /proc/[0-9]*/cmdline; do sleep 0.1; done")).exit_code, 0);
  } finally {
    assert.equal((await done("workspace_delete", { workspace_id })).deleted, true);
  }
}

await client.connect(connection());
assert.equal(client.getServerVersion().name, "pyro");
assert.match(client.getInstructions(), /disposable Linux machine/);
const { tools } = await client.listTools();
assert.equal(tools.length, counts[profile]);
await errors();
if (profile === "vm-run") await oneShot();
if (profile === "workspace-core") await workspace();
await client.close();
console.log(`${transport} ${profile}: passed`);
