"""Client libraries that were written for other servers, against a running one."""
