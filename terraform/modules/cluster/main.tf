# A Slurm cluster (AWS Parallel Computing Service): scheduler, one login node, and nodes that come and go with jobs.

locals {
  node_limit = { SMALL = 32, MEDIUM = 512, LARGE = 2048 }[var.size]

  login = {
    instance_type           = var.login_instance_type
    max_nodes               = 1
    min_nodes               = 1
    purchase                = "ONDEMAND"
    capacity_reservation_id = null
    zone                    = var.first_zone
    efa                     = false
    root_gib                = 200
    max_hours               = null
  }

  groups = { for name, g in merge({ login = local.login }, var.node_groups) : name => merge(g, {
    efa_cards = g.efa ? local.efa_cards[name] : []
    gpus      = sum(concat([0], [for gpu in data.aws_ec2_instance_type.this[name].gpus : gpu.count]))
    cpus      = data.aws_ec2_instance_type.this[name].default_vcpus
  }) }

  # Where not every card has EFA, it is the first one that lacks it.
  efa_cards = {
    for name, t in data.aws_ec2_instance_type.this : name => t.efa_supported ? range(
      t.maximum_network_cards - t.efa_maximum_interfaces, t.maximum_network_cards
    ) : []
  }

  # EFA, placement groups and reservations stay within one zone.
  subnet_ids = {
    for name, g in local.groups : name => (
      g.zone != null || length(g.efa_cards) > 0 || g.capacity_reservation_id != null
      ? [var.subnet_ids[coalesce(g.zone, var.first_zone)]]
      : values(var.subnet_ids)
    )
  }

  # The first one with GPUs, as next_steps has it; a cluster may do without.
  partitions        = sort(keys(var.node_groups))
  default_partition = concat([for name in local.partitions : name if local.groups[name].gpus > 0], local.partitions)[0]
}

data "aws_ec2_instance_type" "this" {
  for_each = merge({ login = local.login }, var.node_groups)

  instance_type = each.value.instance_type
}

resource "awscc_pcs_cluster" "this" {
  name = var.name
  size = var.size

  scheduler = {
    type    = "SLURM"
    version = var.slurm_version
  }

  networking = {
    subnet_ids         = [var.subnet_ids[var.first_zone]]
    security_group_ids = [var.security_group_id]
  }

  slurm_configuration = {
    scale_down_idle_time_in_seconds = var.idle_minutes * 60

    # A node without its file systems takes no job: see node/ready.sh.
    slurm_custom_settings = concat(
      [{ parameter_name = "Prolog", parameter_value = "/usr/local/sbin/tokenfork-ready" }],
      try(var.accounting.enforce, null) == null ? [] : [{ parameter_name = "AccountingStorageEnforce", parameter_value = var.accounting.enforce }],
    )

    accounting = {
      mode                       = var.accounting == null ? "NONE" : "STANDARD"
      default_purge_time_in_days = var.accounting == null ? null : var.accounting.keep_days
    }
  }

  tags = var.tags

  lifecycle {
    precondition {
      condition     = 1 + sum([for g in var.node_groups : g.max_nodes]) <= local.node_limit
      error_message = "The groups' max_nodes and the login node are more than the ${local.node_limit} nodes of size ${var.size}."
    }
  }
}

resource "awscc_pcs_compute_node_group" "this" {
  for_each = local.groups

  cluster_id               = awscc_pcs_cluster.this.cluster_id
  name                     = each.key
  ami_id                   = local.ami_id
  iam_instance_profile_arn = aws_iam_instance_profile.node.arn
  instance_configs         = [{ instance_type = each.value.instance_type }]
  purchase_option          = each.value.purchase
  subnet_ids               = local.subnet_ids[each.key]

  custom_launch_template = {
    template_id = aws_launch_template.node[each.key].id
    version     = tostring(aws_launch_template.node[each.key].latest_version)
  }

  scaling_configuration = {
    min_instance_count = each.value.min_nodes
    max_instance_count = each.value.max_nodes
  }

  spot_options = each.value.purchase == "SPOT" ? { allocation_strategy = "price-capacity-optimized" } : null

  tags = var.tags

  # A node needs its rights and its file system from its first minute on.
  depends_on = [
    aws_iam_role_policy.node,
    aws_iam_role_policy_attachment.node,
    aws_efs_mount_target.shared,
    aws_efs_file_system_policy.shared,
  ]
}

resource "awscc_pcs_queue" "this" {
  for_each = var.node_groups

  cluster_id = awscc_pcs_cluster.this.cluster_id
  name       = each.key

  compute_node_group_configurations = [{
    compute_node_group_id = awscc_pcs_compute_node_group.this[each.key].compute_node_group_id
  }]

  # Without a limit a job that hangs keeps its node, and its price, for good.
  slurm_configuration = {
    slurm_custom_settings = concat(
      [{ parameter_name = "MaxTime", parameter_value = "${each.value.max_hours}:00:00" }],
      each.key == local.default_partition ? [{ parameter_name = "Default", parameter_value = "YES" }] : [],
    )
  }

  tags = var.tags
}
