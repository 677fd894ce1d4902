"""Every statement of SQL. Functions take an open transaction and never commit; `transaction` alone opens one.

A module for each thing that is stored. `schema` has the tables, `records` what a row is to everybody else, `mapper`
goes between: a new column is a line in each of the first two. Who reads rows of tenants says whose (`scope`).
"""
