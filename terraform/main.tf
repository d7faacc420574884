# From an AWS account to a running array: a bucket, and, unless it is switched off, a Slurm cluster with GPU nodes.

locals {
  tags = merge({ Project = "tokenfork", Cluster = var.name, ManagedBy = "terraform" }, var.tags)
}

provider "aws" {
  region = var.region

  default_tags {
    tags = local.tags
  }
}

provider "awscc" {
  region = var.region
}

module "storage" {
  source = "./modules/storage"

  bucket_name          = var.bucket_name
  versioned            = var.versioned
  noncurrent_days      = var.noncurrent_days
  expire_parts         = var.expire_parts
  delete_with_contents = var.delete_bucket_with_contents
}

module "network" {
  source = "./modules/network"
  count  = var.create_cluster ? 1 : 0

  name               = var.name
  cidr               = var.vpc_cidr
  availability_zones = var.availability_zones
  bucket_arn         = module.storage.bucket_arn
}

module "cluster" {
  source = "./modules/cluster"
  count  = var.create_cluster ? 1 : 0

  name                = var.name
  subnet_ids          = module.network[0].subnet_ids
  first_zone          = module.network[0].first_zone
  security_group_id   = module.network[0].nodes_security_group_id
  bucket              = module.storage.bucket
  writer_policy_arn   = module.storage.writer_policy_arn
  reader_policy_arn   = module.storage.reader_policy_arn
  size                = var.cluster_size
  slurm_version       = var.slurm_version
  idle_minutes        = var.idle_minutes
  ami_id              = var.ami_id
  login_instance_type = var.login_instance_type
  accounting          = var.accounting
  log_days            = var.log_days
  shared_storage      = var.shared_storage
  node_groups         = var.node_groups
  tags                = local.tags
}

resource "aws_budgets_budget" "this" {
  count = var.budget == null ? 0 : 1

  # The account's names, not the region's.
  name         = "${var.name}-${var.region}-monthly"
  budget_type  = "COST"
  time_unit    = "MONTHLY"
  limit_amount = tostring(var.budget.monthly_usd)
  limit_unit   = "USD"

  dynamic "cost_filter" {
    for_each = var.budget.only_tagged ? [1] : []

    content {
      name   = "TagKeyValue"
      values = [join("$", ["user:Cluster", var.name])]
    }
  }

  dynamic "notification" {
    for_each = { spent_50 = ["ACTUAL", 50], spent_80 = ["ACTUAL", 80], spent_100 = ["ACTUAL", 100], forecast_100 = ["FORECASTED", 100] }

    content {
      notification_type          = notification.value[0]
      threshold                  = notification.value[1]
      threshold_type             = "PERCENTAGE"
      comparison_operator        = "GREATER_THAN"
      subscriber_email_addresses = var.budget.emails
    }
  }
}

# Taking the cluster away ends what runs on it, so the plan says what does.
data "aws_instances" "running" {
  count = var.create_cluster ? 0 : 1

  instance_state_names = ["pending", "running"]

  filter {
    name   = "tag:Cluster"
    values = [var.name]
  }

  filter {
    name   = "tag:Name"
    values = concat(["${var.name}-gpu"], [for name in keys(var.node_groups) : "${var.name}-${name}"])
  }
}

locals {
  running = flatten(data.aws_instances.running[*].ids)
}

check "nothing_runs" {
  assert {
    condition     = length(local.running) == 0
    error_message = <<-EOT
      ${length(local.running)} nodes run: ${join(" ", local.running)}. Without the cluster, their tasks end at once.
      Finished texts are kept in the job. To let tasks end first, see `squeue` on the login node before you say yes.
    EOT
  }
}

check "budget" {
  assert {
    condition     = try(var.budget.monthly_usd, local.idle_month) >= local.idle_month
    error_message = "The budget of ${try(var.budget.monthly_usd, 0)} dollars a month is less than what the cluster costs idle: about ${local.bill.idle_month} (output bill)."
  }
}
