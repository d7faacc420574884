# What the cluster costs, by the figures of prices.json. null: a price that the sum needs is not known there.

locals {
  prices = jsondecode(file("${path.module}/prices.json"))
  month  = 730 # hours

  # Everything that is billed while no job runs, per hour.
  idle = { for what, price in {
    scheduler  = local.prices.scheduler_hour[var.cluster_size]
    accounting = var.accounting == null ? 0 : local.prices.accounting_hour
    login      = try(local.prices.instance_hour[var.login_instance_type] + local.prices.node_hour + 200 * local.prices.disk_gb_month / local.month, null)
    endpoints  = 3 * local.prices.endpoint_hour
    shared = var.shared_storage.type == "efs" ? local.prices.efs_gb_month / local.month : try(
      coalesce(var.shared_storage.lustre_gib, 1200) * local.prices.lustre_gb_month[coalesce(var.shared_storage.lustre_deployment, "SCRATCH_2")] / local.month, null
    )
    bucket = var.run.stored_gb * local.prices.s3_gb_month / local.month
    kept   = try(sum(concat([0], [for name, g in var.node_groups : coalesce(g.min_nodes, 0) * local.node_hour[name] if coalesce(g.min_nodes, 0) > 0])), null)
  } : what => price if var.create_cluster || what == "bucket" }
  unknown    = [for what, price in local.idle : what if price == null]
  idle_hour  = sum([for price in values(local.idle) : price == null ? 0 : price])
  idle_month = local.idle_hour * local.month

  # A node with its disk, per hour.
  node_hour = { for name, g in var.node_groups : name => try(
    (g.purchase == "CAPACITY_BLOCK" ? local.prices.capacity_block_hour : local.prices.instance_hour)[g.instance_type] +
    local.prices.node_hour + coalesce(g.root_gib, 200) * local.prices.disk_gb_month / local.month, null
  ) }

  # A run on all nodes of the GPU group: the judge's GPU hours count like infer's. Each node is paid for from its start, here
  # a quarter of an hour with the copy of the models, to idle_minutes after its last task; a Capacity Block by whole days.
  run_nodes = try(var.node_groups[local.partition].max_nodes, 0)
  run_gpus  = try(local.run_nodes * local.gpus[local.partition], 0)
  run_hours = try((var.run.gpu_hours.infer + var.run.gpu_hours.judge) / local.run_gpus, null)
  run_paid  = try(local.run_hours + 0.25 + var.idle_minutes / 60, null)
  run_block = try(var.node_groups[local.partition].purchase == "CAPACITY_BLOCK", false)
  run_cost = try(
    local.run_nodes * (local.run_block ? ceil(local.run_paid / 24) * 24 : local.run_paid) * local.node_hour[local.partition] +
    local.run_hours * local.idle_hour, null
  )

  bill = {
    prices_of       = local.prices.date
    idle_hour       = format("%.2f", local.idle_hour)
    idle_month      = format("%.0f", local.idle_month)
    left_out        = local.unknown
    node_hour       = try(format("%.2f", local.node_hour[local.partition]), null)
    all_nodes_hour  = try(format("%.2f", local.run_nodes * local.node_hour[local.partition]), null)
    run_hours       = var.create_cluster ? try(format("%.1f", local.run_hours), null) : null
    run             = var.create_cluster ? try(format("%.0f", local.run_cost), null) : null
    month_and_a_run = var.create_cluster ? try(format("%.0f", local.idle_month + local.run_cost), null) : null
  }
}
