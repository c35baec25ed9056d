-- Delays of one day by carrier and route. A flight is delayed if it leaves 15 minutes late or more; minutes
-- count early departures as negative. $end is the midnight, New York time, that ends the day.
SELECT
    CAST($partition AS DATE) AS flight_date,
    carrier,
    origin,
    destination,
    count(*) AS flights,
    count(*) FILTER (WHERE cancelled) AS cancelled,
    count(*) FILTER (WHERE diverted) AS diverted,
    count(*) FILTER (WHERE departure_delay >= 15) AS delayed,
    count(*) FILTER (WHERE departure >= $end) AS after_midnight,
    CAST(coalesce(sum(departure_delay), 0) AS BIGINT) AS delay_minutes,
    avg(departure_delay) AS mean_delay,
    CAST(coalesce(sum(block_minutes), 0) AS BIGINT) AS block_minutes,
    avg(block_minutes) AS mean_block
FROM clean
GROUP BY carrier, origin, destination
ORDER BY carrier, origin, destination
