-- A condition on a time reaches an index whatever page a row lies in. BRIN told pages apart only until the first VACUUM: from then on
-- new rows also fill what is left at the ends of old pages, and each range reached up to the newest hour. Equal keys share their
-- entry here, some 7 bytes a row, and what is new goes to the end.
DROP INDEX picket.rollups_hourly_hour;
CREATE INDEX rollups_hourly_hour ON picket.rollups_hourly (hour);
DROP INDEX picket.rollups_daily_day;
CREATE INDEX rollups_daily_day ON picket.rollups_daily (day);
DROP INDEX picket.rollups_daily_month;
CREATE INDEX rollups_daily_month ON picket.rollups_daily (picket.month_of(day));
