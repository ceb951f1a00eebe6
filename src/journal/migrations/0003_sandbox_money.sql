-- Sandboxes that are billed by the second are paid like model calls: `role` is then 'sandbox', and this the time.
ALTER TABLE calls ADD COLUMN millis INTEGER NOT NULL DEFAULT 0;
