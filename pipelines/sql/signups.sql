-- Sign-ups and activations a day between two dates, both included (the arguments `from` and `to`), oldest day first.
--
-- Runs as it stands on SQLite and on PostgreSQL: `day` may be a text or a date column, since its cast to text is
-- YYYY-MM-DD in both. Numeric columns become metrics (signups.signups, signups.activated); `channels` is text, so it is
-- no metric, but it is there to be read when somebody asks where a day's sign-ups came from.
SELECT
  CAST(day AS TEXT) AS day,
  SUM(signups) AS signups,
  SUM(activated) AS activated,
  'search ' || CAST(SUM(CASE WHEN channel = 'search' THEN signups ELSE 0 END) AS TEXT)
    || ', direct ' || CAST(SUM(CASE WHEN channel = 'direct' THEN signups ELSE 0 END) AS TEXT)
    || ', referral ' || CAST(SUM(CASE WHEN channel = 'referral' THEN signups ELSE 0 END) AS TEXT) AS channels
FROM signups_daily
WHERE CAST(day AS TEXT) BETWEEN :from AND :to
GROUP BY CAST(day AS TEXT)
ORDER BY CAST(day AS TEXT)
