"""Every statement of SQL. Functions take an open transaction and never commit; `transaction` alone opens one."""
