# examples/bucket.tfvars: nothing but the bucket.

# The offline provider has two nodes of that name run.
run "no_cluster" {
  expect_failures = [check.nothing_runs]

  assert {
    condition     = length(module.network) == 0 && length(module.cluster) == 0 && length(aws_budgets_budget.this) == 0
    error_message = "more than the bucket is made"
  }

  assert {
    condition     = output.cluster_id == null && output.connect == null && output.partitions == []
    error_message = "outputs speak of a cluster"
  }

  assert {
    condition     = strcontains(output.next_steps, "attach-role-policy --role-name ROLE --policy-arn ${output.writer_policy_arn}") && strcontains(output.next_steps, "submit --job s3://change-me-tokenfork/jobs/first\n")
    error_message = "next_steps lacks the policy or the submission"
  }
}
