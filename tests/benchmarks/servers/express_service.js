// What many would write first: Express, totals in a Map, nothing on disk.
//
// Prints its URL and serves until stdin ends; BENCHMARK_KEY is its API key.
"use strict";

const crypto = require("node:crypto");
const express = require("express");

const EVENT_TYPES = new Set([
  "api.calls", "storage.bytes", "response.time.ms", "test.count", "test.last",
]);
const BATCH_MAX = 1000;
const keyHash = hashOf(process.env.BENCHMARK_KEY);
const totals = new Map();

function hashOf(text) {
  return crypto.createHash("sha256").update(text).digest();
}

function authenticate(request, response, next) {
  const key = request.get("x-apikey") ?? "";
  if (crypto.timingSafeEqual(hashOf(key), keyHash)) return next();
  response.status(401).json({ error: "Unauthorized" });
}

function faults({ eventType, customerId, value, metadata }) {
  const found = [];
  if (!EVENT_TYPES.has(eventType)) found.push(`Invalid event type: ${eventType}`);
  if (typeof customerId !== "string" || !customerId) found.push("customerId is required");
  if (!Number.isFinite(value)) found.push("value must be a finite number");
  if (metadata !== undefined && (typeof metadata !== "object" || metadata === null)) {
    found.push("metadata must be an object if provided");
  }
  return found;
}

function isoWeek(now) {
  const day = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate()));
  day.setUTCDate(day.getUTCDate() + 4 - (day.getUTCDay() || 7));
  const first = Date.UTC(day.getUTCFullYear(), 0, 1);
  const week = Math.ceil(((day - first) / 86400000 + 1) / 7);
  return `${day.getUTCFullYear()}${String(week).padStart(2, "0")}`;
}

function periodKeys(now) {
  const text = now.toISOString().replace(/[-T]/g, "");
  return [`h${text.slice(0, 10)}`, `d${text.slice(0, 8)}`, `w${isoWeek(now)}`, `m${text.slice(0, 6)}`];
}

function count(event, periods) {
  for (const period of periods) {
    const key = `${period}|${event.customerId}|${event.eventType}`;
    const total = totals.get(key);
    if (total === undefined) {
      const { value } = event;
      totals.set(key, { count: 1, sum: value, min: value, max: value, first: value, last: value });
    } else {
      total.count += 1;
      total.sum += event.value;
      total.min = Math.min(total.min, event.value);
      total.max = Math.max(total.max, event.value);
      total.last = event.value;
    }
  }
}

const app = express();
app.disable("x-powered-by");
app.disable("etag");
app.use(authenticate);
app.use(express.json({ limit: "4mb" }));

app.post("/usage/:eventType", (request, response) => {
  const event = { ...request.body, eventType: request.params.eventType };
  const details = faults(event);
  if (details.length) return response.status(422).json({ error: "Validation failed", details });
  count(event, periodKeys(new Date()));
  const { eventType, customerId } = event;
  response.status(201).json({ message: "Event captured", eventType, customerId });
});

app.post("/usagebatch", (request, response) => {
  const events = request.body;
  if (!Array.isArray(events) || !events.length || events.length > BATCH_MAX) {
    return response.status(400).json({ error: "Request body must be an array of events" });
  }
  const validationErrors = events
    .map((event, index) => ({ index, errors: faults(event ?? {}) }))
    .filter(({ errors }) => errors.length);
  if (validationErrors.length) {
    return response.status(422).json({ error: "Validation failed for some events", validationErrors });
  }
  const periods = periodKeys(new Date());
  for (const event of events) count(event, periods);
  response.status(201).json({ message: "Events captured", count: events.length });
});

const server = app.listen(0, "127.0.0.1", () => {
  console.log(`http://127.0.0.1:${server.address().port}`);
});
process.stdin.resume().on("end", () => process.exit());
