# The study's pair and judge on p5.48xlarge (8 H100 of 80 GB). A task has half a node: servers of the 32B on two GPUs each,
# the 1.5B beside them, and then the 72B judge on all four. On demand, and so only where and when AWS has them:
# capacity-block.tfvars reserves them. More nodes cost the same for a run and end it sooner: look at output bill first.
region             = "us-east-2"
bucket_name        = "change-me-tokenfork"
availability_zones = ["us-east-2a"]

node_groups = {
  gpu = { instance_type = "p5.48xlarge", max_nodes = 2, efa = false }
  cpu = { instance_type = "m7i.2xlarge", max_nodes = 1 } # plan, merge and report
}

run = {
  table       = "table.csv"
  small       = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
  reference   = "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"
  judge       = "Qwen/Qwen2.5-72B-Instruct"
  gpus        = 4
  infer_flags = "--reference-tp 2"
  judge_flags = "--judge-tp 4"
  gpu_hours   = { infer = 6, judge = 82 } # of 10^6 mismatches: docs/cloud.md
  stored_gb   = 230
}

budget = { monthly_usd = 1300, emails = ["change-me@example.com"] }
