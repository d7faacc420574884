# examples/try.tfvars: one g6e node, and a budget.

run "one_node_and_a_budget" {
  assert {
    condition     = output.partitions == tolist(["gpu"]) && module.cluster[0].gpus == { gpu = 1 }
    error_message = "not one partition of nodes with one GPU"
  }

  assert {
    condition     = toset(keys(module.network[0].subnet_ids)) == toset(["us-east-1a", "us-east-1b"])
    error_message = "the nodes may not start in both zones"
  }

  assert {
    condition = alltrue([for want in [
      "s3 cp software/SHA256SUMS s3://change-me-tokenfork/software/\n", "${output.connect}\n", "sudo tokenfork-setup ",
      "srun --partition gpu --gres gpu:1 tokenfork doctor ", "tokenfork status --job s3://change-me-tokenfork/jobs/first --watch\n",
    ] : strcontains(output.next_steps, want)])
    error_message = "next_steps lacks a step"
  }

  assert {
    condition     = strcontains(output.connect, "tag:aws:pcs:compute-node-group-id,Values=${module.cluster[0].login_group_id} ")
    error_message = "connect does not find the login node"
  }

  assert {
    condition     = aws_budgets_budget.this[0].limit_amount == "200" && length(aws_budgets_budget.this[0].cost_filter) == 0
    error_message = "the budget is not 200 dollars for the whole account"
  }

  assert {
    condition     = { for n in aws_budgets_budget.this[0].notification : "${n.notification_type} ${n.threshold}" => n.subscriber_email_addresses } == { for k in ["ACTUAL 50", "ACTUAL 80", "ACTUAL 100", "FORECASTED 100"] : k => toset(["change-me@example.com"]) }
    error_message = "mail does not go out at 50, 80 and 100 % and at the forecast"
  }
}

run "tagged_budget" {
  command = plan

  variables {
    budget = { monthly_usd = 10, emails = ["change-me@example.com"], only_tagged = true }
  }

  assert {
    condition     = one(aws_budgets_budget.this[0].cost_filter).values == tolist([join("$", ["user:Cluster", "tokenfork"])])
    error_message = "the budget counts more than the cluster"
  }
}

# Back to zero with the data kept.
run "cluster_taken_away" {
  variables {
    create_cluster = false
  }

  assert {
    condition     = length(module.cluster) == 0 && length(module.network) == 0 && output.bucket == "change-me-tokenfork"
    error_message = "something other than the bucket is left"
  }
}

run "zones_are_asked_for" {
  command = plan

  variables {
    availability_zones = []
  }

  expect_failures = [var.availability_zones]
}

run "more_gpus_than_a_node_has" {
  command = plan

  variables {
    run = { gpus = 2 }
  }

  expect_failures = [output.next_steps]
}
