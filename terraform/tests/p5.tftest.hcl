# examples/p5.tfvars: the 1.5B, the 32B and the 72B judge on p5.48xlarge.

run "half_a_node_a_task" {
  assert {
    condition     = output.partitions == tolist(["gpu", "cpu"]) && module.cluster[0].gpus == { cpu = 0, gpu = 8 }
    error_message = "not one partition of nodes with 8 GPUs, and one without"
  }

  assert {
    condition = alltrue([for want in [
      "hf download Qwen/Qwen2.5-72B-Instruct --local-dir models/Qwen2.5-72B-Instruct\n",
      "srun --partition cpu tokenfork-models models/Qwen2.5-72B-Instruct models/DeepSeek-R1-Distill-Qwen-32B models/DeepSeek-R1-Distill-Qwen-1.5B -- tokenfork plan s3://",
      "--reference-model /scratch/models/DeepSeek-R1-Distill-Qwen-32B --shard-time 90m --shard-gpus 4\n",
      " --partition gpu --gpus 4 --cpus 96 --prologue '. tokenfork-models' --cpu-sbatch \"--partition=cpu\" --infer-flags \"--reference-tp 2\"",
      " --judge local --judge-model /scratch/models/Qwen2.5-72B-Instruct --judge-flags \"--judge-tp 4\"\n",
    ] : strcontains(output.next_steps, want)])
    error_message = "next_steps does not spread the models over a task's GPUs"
  }
}

# Tasks stay on a node: nothing ties the nodes to one zone, or to one rack.
run "no_efa" {
  command = plan

  assert {
    condition     = var.node_groups["gpu"].max_nodes == 2 && var.node_groups["gpu"].efa == false
    error_message = "more than two nodes, or EFA"
  }
}

run "cpu_group_alone_serves_no_gpus" {
  command = plan

  variables {
    node_groups = { cpu = { instance_type = "m7i.2xlarge", max_nodes = 1 } }
  }

  expect_failures = [output.next_steps]
}

run "the_group_with_gpus_enough_is_taken" {
  variables {
    node_groups = {
      a-small = { instance_type = "g6e.4xlarge", max_nodes = 1 }
      b-large = { instance_type = "p5.48xlarge", max_nodes = 1 }
      cpu     = { instance_type = "m7i.2xlarge", max_nodes = 1 }
      z-four  = { instance_type = "g6e.12xlarge", max_nodes = 1 }
    }
  }

  assert {
    condition     = strcontains(output.next_steps, " --partition z-four --gpus 4 --cpus 48 ")
    error_message = "the task's four GPUs are not asked of the group with four"
  }
}
