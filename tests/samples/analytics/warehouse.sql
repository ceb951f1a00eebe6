-- The sample warehouse: sign-ups a day by channel, Fri 2026-05-01 to Thu 2026-11-19 (203 days), made by SQLite itself.
--
-- Every value follows from the day's number alone: a weekday's share, slow growth, and a small wobble from modular
-- arithmetic. There is no random() and no clock, so the same bytes come out everywhere and the demo's tape stays true.
-- Running this file again builds the table anew.
BEGIN;
DROP TABLE IF EXISTS signups_daily;
CREATE TABLE signups_daily (
  day       TEXT    NOT NULL,  -- YYYY-MM-DD, UTC
  channel   TEXT    NOT NULL,  -- search, direct or referral
  signups   INTEGER NOT NULL,
  activated INTEGER NOT NULL,  -- of those, how many did something on the same day
  PRIMARY KEY (day, channel)
) WITHOUT ROWID;

WITH RECURSIVE
  days(n, day) AS (
    SELECT 0, '2026-05-01'
    UNION ALL
    SELECT n + 1, date(day, '+1 day') FROM days WHERE n < 202
  ),
  channels(channel, share, activation, salt) AS (       -- per cent of a day's sign-ups, per cent activated
    VALUES ('search', 52, 41, 0), ('direct', 34, 37, 5), ('referral', 14, 29, 11)
  ),
  weekdays(w, weight) AS (                              -- per cent of a Wednesday, Sunday first
    VALUES (0, 58), (1, 97), (2, 101), (3, 100), (4, 98), (5, 88), (6, 61)
  ),
  usual(n, day, channel, activation, salt, signups) AS (
    SELECT n, day, channel, activation, salt,
      -- 912 a Wednesday in May, 0.8 more each day; the wobble is within 3 per cent
      (9120 + 8 * n) * weight * share * (1000 + (n * 37 + salt * 17) % 61 - 30) / 100000000
    FROM days
    JOIN weekdays ON w = CAST(strftime('%w', day) AS INTEGER)
    CROSS JOIN channels
  )
INSERT INTO signups_daily (day, channel, signups, activated)
SELECT day, channel, signups, signups * (activation * 10 + (n * 23 + salt * 7) % 31 - 15) / 1000
FROM usual;

-- The anomaly: on the last day referral brings more than twice its usual number, and few of those become active.
-- What caused it stands nowhere in this data.
UPDATE signups_daily SET signups = 289, activated = 52 WHERE day = '2026-11-19' AND channel = 'referral';
COMMIT;
