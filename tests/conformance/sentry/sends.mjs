// Errors of a Node program, sent by Sentry's own SDK: `sends.mjs WHAT DSN`.

const Sentry = await import(process.env.SENTRY_SDK);
const [what, dsn] = process.argv.slice(2);
Sentry.init({ dsn, release: "web@3.0.1", environment: "staging", serverName: "worker-1" });

function total(order) {
  return order.lines.map((line) => line.price).reduce((a, b) => a + b);
}

function checkout(order) {
  try {
    return total(order);
  } catch (error) {
    throw new RangeError(`order ${Math.random()} cannot be paid`, { cause: error });
  }
}

if (what === "errors") {
  // Not written here, because the lines around a frame are sent.
  Sentry.setUser({ id: 7, email: process.env.WHO });
  Sentry.setTag("queue", "push");
  console.log("a breadcrumb of the console, which makes a flat list");
  for (let n = 0; n < 3; n++) {
    try {
      checkout({});
    } catch (error) {
      Sentry.captureException(error);
    }
  }
  Sentry.captureMessage("a message", "warning");
} else if (what === "big") {
  for (let n = 0; n < 100; n++) Sentry.addBreadcrumb({ category: "cart", message: `step ${n} ${"y".repeat(1500)}` });
  Sentry.captureException(new TypeError("a big one"));
} else if (what === "limited") {
  for (let n = 0; n < 12; n++) {
    Sentry.captureMessage(`limited ${n}`);
    await Sentry.flush(20_000);
    await new Promise((go) => setTimeout(go, 50));
  }
}
await Sentry.close(20_000);
