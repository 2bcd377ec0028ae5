"""Small, finished files every stage may need: params, run folder, lease, exit, ranks."""
