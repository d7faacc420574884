# Many cheap nodes that may be taken away: g6e.12xlarge (4 L40S, 48 GB). A task has a node: the 32B on all four GPUs, the 1.5B
# beside it on one. An interrupted task loses what was in flight and is queued again. Judged elsewhere.
region             = "us-west-2"
bucket_name        = "change-me-tokenfork"
availability_zones = ["us-west-2a", "us-west-2b", "us-west-2c"]

node_groups = {
  gpu = { instance_type = "g6e.12xlarge", max_nodes = 24, purchase = "SPOT" }
}

run = {
  table       = "table.csv"
  small       = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
  reference   = "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"
  gpus        = 4
  infer_flags = "--reference-tp 4"
  gpu_hours   = { infer = 22 } # of 10^6 mismatches, not judged: docs/cloud.md
  stored_gb   = 85
}

budget = { monthly_usd = 800, emails = ["change-me@example.com"] }
