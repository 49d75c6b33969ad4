"""Rule-based rewards, the registry that finds them by name, and the pool that can kill a hanging one."""
