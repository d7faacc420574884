# examples/p5.tfvars: infer and judge, each of p5.48xlarge.

run "two_partitions" {
  assert {
    condition     = output.partitions == tolist(["infer", "judge"]) && module.cluster[0].gpus == { infer = 8, judge = 8 }
    error_message = "not two partitions of nodes with 8 GPUs, infer the default one"
  }

  assert {
    condition     = strcontains(output.next_steps, "SBATCH_PARTITION=infer SBATCH_GPUS_PER_NODE=8\n")
    error_message = "next_steps does not ask for whole nodes"
  }
}
