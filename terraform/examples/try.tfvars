# One GPU node to try everything: a g6e.4xlarge (one L40S, 48 GB) for models up to about 7B.
region             = "us-east-1"
bucket_name        = "change-me-tokenfork"
availability_zones = ["us-east-1a", "us-east-1b"]

node_groups = {
  gpu = { instance_type = "g6e.4xlarge", max_nodes = 1 }
}

run = {
  table      = "table.csv"
  small      = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
  reference  = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
  judge      = "Qwen/Qwen2.5-7B-Instruct"
  plan_flags = "--reference 7.0"
  gpu_hours  = { infer = 9, judge = 33 } # of 10^6 mismatches: docs/cloud.md
  stored_gb  = 45
}

budget = { monthly_usd = 800, emails = ["change-me@example.com"] }
