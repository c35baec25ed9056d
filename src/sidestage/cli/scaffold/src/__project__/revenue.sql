SELECT product, count(*) AS orders, sum(quantity) AS sold, round(sum(amount), 2) AS revenue
FROM orders
GROUP BY product
ORDER BY product
