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
      "s3 cp software/SHA256SUMS s3://change-me-tokenfork/software/\n", "s3 cp images/vllm/SHA256SUMS s3://change-me-tokenfork/images/vllm/\n",
      "${output.connect}\n", "${output.connect_gpu}\n", "${output.logs}\n", "sudo tokenfork-stage ",
      "srun --partition gpu --gres gpu:1 --cpus-per-task 16 tokenfork-models models/", " -- tokenfork doctor ", " --gpus 1 --cpus 16 --prologue '. tokenfork-models' --judge local", "tokenfork status --job s3://change-me-tokenfork/jobs/first --watch\n",
    ] : strcontains(output.next_steps, want)])
    error_message = "next_steps lacks a step"
  }

  assert {
    condition     = strcontains(output.connect, "tag:aws:pcs:compute-node-group-id,Values=${module.cluster[0].login_group_id} ")
    error_message = "connect does not find the login node"
  }

  assert {
    condition     = strcontains(output.connect_gpu, "tag:aws:pcs:compute-node-group-id,Values=${module.cluster[0].node_group_ids["gpu"]} ")
    error_message = "connect_gpu does not find the GPU node"
  }

  assert {
    condition     = output.bill.idle_month == "617" && output.bill.run == "167" && output.bill.left_out == []
    error_message = "the bill is ${jsonencode(output.bill)}"
  }

  assert {
    condition     = aws_budgets_budget.this[0].name == "tokenfork-us-east-1-monthly"
    error_message = "a second region would take the same name"
  }

  assert {
    condition     = aws_budgets_budget.this[0].limit_amount == "800" && length(aws_budgets_budget.this[0].cost_filter) == 0
    error_message = "the budget is not 800 dollars for the whole account"
  }

  assert {
    condition     = { for n in aws_budgets_budget.this[0].notification : "${n.notification_type} ${n.threshold}" => n.subscriber_email_addresses } == { for k in ["ACTUAL 50", "ACTUAL 80", "ACTUAL 100", "FORECASTED 100"] : k => toset(["change-me@example.com"]) }
    error_message = "mail does not go out at 50, 80 and 100 % and at the forecast"
  }
}

run "tagged_budget" {
  command = plan

  variables {
    budget = { monthly_usd = 1000, emails = ["change-me@example.com"], only_tagged = true }
  }

  assert {
    condition     = one(aws_budgets_budget.this[0].cost_filter).values == tolist([join("$", ["user:Cluster", "tokenfork"])])
    error_message = "the budget counts more than the cluster"
  }
}

# Back to zero with the data kept; the offline provider has two nodes run.
run "cluster_taken_away" {
  variables {
    create_cluster = false
  }

  expect_failures = [check.nothing_runs]

  assert {
    condition     = length(module.cluster) == 0 && length(module.network) == 0 && output.bucket == "change-me-tokenfork"
    error_message = "something other than the bucket is left"
  }
}

run "budget_below_idle" {
  command = plan

  variables {
    budget = { monthly_usd = 200, emails = ["change-me@example.com"] }
  }

  expect_failures = [check.budget]
}

# A price that is not known is named, not left out in silence.
run "unknown_price" {
  command = plan

  variables {
    cluster_size        = "LARGE"
    login_instance_type = "m7i.24xlarge"
    accounting          = {}
  }

  assert {
    condition     = toset(output.bill.left_out) == toset(["scheduler", "login", "accounting"])
    error_message = "left out: ${jsonencode(output.bill.left_out)}"
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
