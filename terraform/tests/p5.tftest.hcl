# examples/p5.tfvars: the 1.5B, the 32B and the 72B judge on p5.48xlarge.

run "half_a_node_a_task" {
  assert {
    condition     = output.partitions == tolist(["gpu"]) && module.cluster[0].gpus == { gpu = 8 }
    error_message = "not one partition of nodes with 8 GPUs"
  }

  assert {
    condition = alltrue([for want in [
      "hf download Qwen/Qwen2.5-72B-Instruct --local-dir models/Qwen2.5-72B-Instruct\n",
      "--reference-model /shared/models/DeepSeek-R1-Distill-Qwen-32B --shard-time 90m --shard-gpus 4\n",
      "submit --job s3://change-me-tokenfork/jobs/first --partition gpu --gpus 4 --infer-flags \"--reference-tp 2\"",
      " --judge local --judge-model /shared/models/Qwen2.5-72B-Instruct --judge-flags \"--judge-tp 4\"\n",
    ] : strcontains(output.next_steps, want)])
    error_message = "next_steps does not spread the models over a task's GPUs"
  }
}
