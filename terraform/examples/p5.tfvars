# The study's pair and judge on p5.48xlarge (8 H100 of 80 GB). A task has half a node: servers of the 32B on two GPUs each,
# the 1.5B beside them, and then the 72B judge on all four. On demand, and so only where and when AWS has them:
# capacity-block.tfvars reserves them.
region             = "us-east-2"
bucket_name        = "change-me-tokenfork"
availability_zones = ["us-east-2a"]
cluster_size       = "MEDIUM"

node_groups = {
  gpu = { instance_type = "p5.48xlarge", max_nodes = 16 }
}

# 32B, 72B, 1.5B and the container image are about 230 GB; a node reads them at each start.
shared_storage = { type = "lustre", lustre_gib = 1200 }

run = {
  table       = "table.csv"
  small       = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
  reference   = "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"
  judge       = "Qwen/Qwen2.5-72B-Instruct"
  gpus        = 4
  infer_flags = "--reference-tp 2"
  judge_flags = "--judge-tp 4"
}

budget = { monthly_usd = 20000, emails = ["change-me@example.com"] }
