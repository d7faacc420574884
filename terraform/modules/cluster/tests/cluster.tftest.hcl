# The variables are those of example.tfvars: one group, gpu, of up to two g6e.4xlarge.

run "defaults" {
  assert {
    condition     = awscc_pcs_cluster.this.size == "SMALL" && awscc_pcs_cluster.this.scheduler.type == "SLURM"
    error_message = "not a small Slurm cluster"
  }

  assert {
    condition     = awscc_pcs_cluster.this.slurm_configuration.scale_down_idle_time_in_seconds == 600
    error_message = "idle nodes don't end after 10 minutes"
  }

  assert {
    condition     = { for s in awscc_pcs_cluster.this.slurm_configuration.slurm_custom_settings : s.parameter_name => s.parameter_value } == { Prolog = "/usr/local/sbin/tokenfork-ready" }
    error_message = "nodes without their file systems would take jobs"
  }

  assert {
    condition     = { for name, q in awscc_pcs_queue.this : name => { for s in q.slurm_configuration.slurm_custom_settings : s.parameter_name => s.parameter_value } } == { gpu = { MaxTime = "24:00:00", Default = "YES" } }
    error_message = "gpu is not the default partition, with jobs of a day at most"
  }

  assert {
    condition = {
      for name, g in awscc_pcs_compute_node_group.this : name => [g.scaling_configuration.min_instance_count, g.scaling_configuration.max_instance_count]
    } == { login = [1, 1], gpu = [0, 2] }
    error_message = "one login node always, GPU nodes only for jobs"
  }

  assert {
    condition = (
      awscc_pcs_compute_node_group.this["login"].subnet_ids == tolist(["subnet-0aaaaaaaaaaaaaaaa"]) &&
      toset(awscc_pcs_compute_node_group.this["gpu"].subnet_ids) == toset(["subnet-0aaaaaaaaaaaaaaaa", "subnet-0bbbbbbbbbbbbbbbb"])
    )
    error_message = "login in the first zone, GPU nodes without EFA in all"
  }

  assert {
    condition     = alltrue([for g in awscc_pcs_compute_node_group.this : g.purchase_option == "ONDEMAND" && g.ami_id == output.ami_id && startswith(g.ami_id, "ami-")])
    error_message = "nodes are not on demand from the one AMI"
  }

  assert {
    condition     = output.gpus == { gpu = 1 } && output.cpus == { gpu = 16 } && output.partitions == tolist(["gpu"])
    error_message = "a g6e.4xlarge has one GPU and 16 CPUs"
  }

  assert {
    condition     = alltrue([for t in aws_launch_template.node : one(t.metadata_options).http_tokens == "required" && one(t.metadata_options).http_put_response_hop_limit == 1])
    error_message = "IMDSv2 is not required"
  }

  assert {
    condition     = alltrue([for t in aws_launch_template.node : one(one(t.block_device_mappings).ebs).encrypted == "true" && one(one(t.block_device_mappings).ebs).delete_on_termination == "true"])
    error_message = "a disk is not encrypted, or outlives its node"
  }

  assert {
    condition     = alltrue([for t in aws_launch_template.node : t.key_name == null && length(t.network_interfaces) == 0 && t.vpc_security_group_ids == toset(["sg-0aaaaaaaaaaaaaaaa"])])
    error_message = "a node can be reached otherwise than through Session Manager"
  }

  assert {
    condition     = alltrue([for t in aws_launch_template.node : toset([for s in t.tag_specifications : s.resource_type]) == toset(["instance", "volume", "network-interface"])])
    error_message = "what a node starts with is not tagged"
  }

  assert {
    condition     = alltrue([for t in aws_launch_template.node : length(base64decode(t.user_data)) < 16384 && startswith(base64decode(t.user_data), "MIME-Version: 1.0\n")])
    error_message = "user data is not a MIME archive of less than 16 KiB"
  }

  assert {
    condition = alltrue([for want in [
      "export TOKENFORK_BUCKET=tokenfork-cluster-test TOKENFORK_GPUS=1\n", "TOKENFORK_SHARED_TYPE=efs TOKENFORK_SHARED_SOURCE=${aws_efs_file_system.shared[0].id}:/",
      "AWS_REGION=us-east-1", file("node/mount.sh"), file("node/stage.sh"), file("node/ready.sh"),
      file("node/models.sh"), file("node/stage.service"), file("node/sudoers"),
    ] : strcontains(base64decode(aws_launch_template.node["gpu"].user_data), want)])
    error_message = "user data lacks a file or a value"
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.node["login"].user_data), "TOKENFORK_GPUS=0\n")
    error_message = "the login node would copy weights"
  }

  assert {
    condition     = data.aws_ami.node.include_deprecated
    error_message = "an image that ami_id keeps is not found once AWS deprecates it"
  }

  assert {
    condition     = aws_iam_role.node.name == "tf-cluster-us-east-1-node" && aws_iam_instance_profile.node.name == "tf-cluster-us-east-1-node"
    error_message = "a second region would take the same names"
  }

  assert {
    condition = (
      aws_cloudwatch_log_group.pcs.name == "/aws/vendedlogs/pcs/tf-cluster" && aws_cloudwatch_log_group.pcs.retention_in_days == 14 && output.log_group == "/aws/vendedlogs/pcs/tf-cluster" &&
      alltrue([for s in aws_cloudwatch_log_delivery_source.pcs : s.resource_arn == awscc_pcs_cluster.this.arn]) &&
      alltrue([for d in aws_cloudwatch_log_delivery_destination.pcs : one(d.delivery_destination_configuration).destination_resource_arn == aws_cloudwatch_log_group.pcs.arn])
    )
    error_message = "the scheduler's logs do not go to a log group of their own"
  }

  assert {
    condition = { for name, d in aws_cloudwatch_log_delivery.pcs : aws_cloudwatch_log_delivery_source.pcs[name].log_type => d.delivery_source_name } == {
      PCS_SCHEDULER_LOGS = "tf-cluster-scheduler", PCS_SCALING_LOGS = "tf-cluster-scaling", PCS_JOBCOMP_LOGS = "tf-cluster-jobs"
    }
    error_message = "not the logs of scheduler, scaling and jobs"
  }

  assert {
    condition     = awscc_pcs_cluster.this.slurm_configuration.accounting.mode == "NONE"
    error_message = "accounting, which is billed, is on unasked"
  }

  assert {
    condition     = aws_iam_role.node.path == "/aws-pcs/" && aws_iam_instance_profile.node.path == "/aws-pcs/"
    error_message = "PCS would refuse the role"
  }

  assert {
    condition     = toset([for a in aws_iam_role_policy_attachment.node : a.policy_arn]) == toset(["arn:aws:iam::123456789012:policy/writer", "arn:aws:iam::123456789012:policy/reader"])
    error_message = "a node has other policies than the writer's and the reader's"
  }

  assert {
    condition = toset(flatten([for s in jsondecode(aws_iam_role_policy.node.policy).Statement : s.Action])) == toset([
      "pcs:RegisterComputeNodeGroupInstance", "ssm:UpdateInstanceInformation", "ssmmessages:CreateControlChannel",
      "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
    ])
    error_message = "a node may do more than join the cluster and open sessions"
  }

  assert {
    condition     = aws_efs_file_system.shared[0].encrypted && length(aws_efs_mount_target.shared) == 2 && length(aws_fsx_lustre_file_system.shared) == 0
    error_message = "not one encrypted EFS with a mount target in each zone"
  }

  assert {
    condition     = one([for s in jsondecode(aws_efs_file_system_policy.shared[0].policy).Statement : s.Condition if s.Effect == "Deny"]).Bool["aws:SecureTransport"] == "false"
    error_message = "the file system can be mounted without TLS"
  }

  assert {
    condition     = one([for s in jsondecode(aws_efs_file_system_policy.shared[0].policy).Statement : s.Principal if s.Effect == "Allow"]).AWS == aws_iam_role.node.arn
    error_message = "others than the nodes can mount the file system"
  }
}

run "lustre_and_own_ami" {
  variables {
    ami_id         = "ami-0123456789abcdef0"
    shared_storage = { type = "lustre", lustre_gib = 2400, lustre_deployment = "PERSISTENT_2", lustre_throughput = 250 }
  }

  assert {
    condition = (
      aws_fsx_lustre_file_system.shared[0].storage_capacity == 2400 && aws_fsx_lustre_file_system.shared[0].skip_final_backup &&
      aws_fsx_lustre_file_system.shared[0].subnet_ids == tolist(["subnet-0aaaaaaaaaaaaaaaa"]) && length(aws_efs_file_system.shared) == 0
    )
    error_message = "not one Lustre file system in the first zone that leaves no backup"
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.node["gpu"].user_data), "TOKENFORK_SHARED_TYPE=lustre TOKENFORK_SHARED_SOURCE=${aws_fsx_lustre_file_system.shared[0].dns_name}@tcp:/${aws_fsx_lustre_file_system.shared[0].mount_name}\n")
    error_message = "nodes would not mount it"
  }

  assert {
    condition     = output.ami_id == "ami-0123456789abcdef0" && length(data.aws_ssm_parameter.ami) == 0
    error_message = "the nodes' AMI is not the one given"
  }
}

run "efa" {
  command = plan

  variables {
    node_groups = {
      one   = { instance_type = "g6e.12xlarge", max_nodes = 4, efa = true }
      many  = { instance_type = "p5.48xlarge", max_nodes = 4, zone = "us-east-1b", efa = true }
      none  = { instance_type = "p5.48xlarge", max_nodes = 4 }
      alone = { instance_type = "p5.48xlarge", max_nodes = 1, efa = true }
    }
  }

  assert {
    condition     = { for name, t in aws_launch_template.node : name => length(t.network_interfaces) } == { login = 0, one = 2, many = 33, none = 0, alone = 33 }
    error_message = "one usual interface and one for EFA on each card that has it"
  }

  assert {
    condition = (
      [for i in slice(aws_launch_template.node["many"].network_interfaces, 0, 3) : [i.network_card_index, i.device_index, i.interface_type]] ==
      [[0, 0, "interface"], [0, 1, "efa-only"], [1, 0, "efa-only"]]
    )
    error_message = "the interfaces are not where EC2 wants them"
  }

  assert {
    condition     = alltrue([for i in aws_launch_template.node["many"].network_interfaces : i.subnet_id == "subnet-0bbbbbbbbbbbbbbbb" && i.security_groups == toset(["sg-0aaaaaaaaaaaaaaaa"])])
    error_message = "an interface is in another subnet or group"
  }

  assert {
    condition     = aws_launch_template.node["many"].vpc_security_group_ids == null
    error_message = "EC2 refuses security groups beside interfaces"
  }

  assert {
    condition     = toset(keys(aws_placement_group.this)) == toset(["one", "many"]) && one(aws_launch_template.node["many"].placement).group_name == "tf-cluster-many"
    error_message = "on-demand groups of several nodes with EFA have a placement group, others none"
  }

  assert {
    condition = (
      awscc_pcs_compute_node_group.this["many"].subnet_ids == tolist(["subnet-0bbbbbbbbbbbbbbbb"]) &&
      awscc_pcs_compute_node_group.this["one"].subnet_ids == tolist(["subnet-0aaaaaaaaaaaaaaaa"]) &&
      length(awscc_pcs_compute_node_group.this["none"].subnet_ids) == 2
    )
    error_message = "EFA stays within one zone"
  }
}

run "purchases" {
  command = plan

  variables {
    node_groups = {
      spot     = { instance_type = "g6e.12xlarge", max_nodes = 8, purchase = "SPOT" }
      block    = { instance_type = "p5.48xlarge", max_nodes = 4, purchase = "CAPACITY_BLOCK", capacity_reservation_id = "cr-0123456789abcdef0", zone = "us-east-1b" }
      reserved = { instance_type = "p5.48xlarge", max_nodes = 2, capacity_reservation_id = "cr-0fedcba9876543210" }
    }
  }

  assert {
    condition     = { for name, g in awscc_pcs_compute_node_group.this : name => g.purchase_option } == { login = "ONDEMAND", spot = "SPOT", block = "CAPACITY_BLOCK", reserved = "ONDEMAND" }
    error_message = "nodes are bought otherwise"
  }

  assert {
    condition     = awscc_pcs_compute_node_group.this["spot"].spot_options.allocation_strategy == "price-capacity-optimized" && length(aws_placement_group.this) == 0
    error_message = "spot nodes are taken where they last, not where they are close"
  }

  assert {
    condition = (
      one(aws_launch_template.node["block"].instance_market_options).market_type == "capacity-block" && aws_launch_template.node["block"].instance_type == "p5.48xlarge" &&
      one(one(aws_launch_template.node["block"].capacity_reservation_specification).capacity_reservation_target).capacity_reservation_id == "cr-0123456789abcdef0"
    )
    error_message = "the launch template does not name the capacity block"
  }

  assert {
    condition = (
      length(aws_launch_template.node["reserved"].instance_market_options) == 0 && length(awscc_pcs_compute_node_group.this["reserved"].subnet_ids) == 1 &&
      one(one(aws_launch_template.node["reserved"].capacity_reservation_specification).capacity_reservation_target).capacity_reservation_id == "cr-0fedcba9876543210"
    )
    error_message = "the launch template does not name the reservation"
  }
}

run "cpu_group_and_accounting" {
  command = plan

  variables {
    accounting = { keep_days = 30, enforce = "associations,limits,qos" }
    log_days   = 90
    node_groups = {
      cpu   = { instance_type = "m7i.2xlarge", max_nodes = 1, max_hours = 4 }
      large = { instance_type = "p5.48xlarge", max_nodes = 1 }
    }
  }

  assert {
    condition     = output.partitions == tolist(["large", "cpu"]) && output.gpus == { cpu = 0, large = 8 } && output.cpus == { cpu = 8, large = 192 }
    error_message = "the default partition is not the one with GPUs"
  }

  assert {
    condition = { for name, q in awscc_pcs_queue.this : name => { for s in q.slurm_configuration.slurm_custom_settings : s.parameter_name => s.parameter_value } } == {
      cpu = { MaxTime = "4:00:00" }, large = { MaxTime = "24:00:00", Default = "YES" }
    }
    error_message = "the partitions' limits"
  }

  assert {
    condition = (
      awscc_pcs_cluster.this.slurm_configuration.accounting.mode == "STANDARD" && awscc_pcs_cluster.this.slurm_configuration.accounting.default_purge_time_in_days == 30 &&
      contains([for s in awscc_pcs_cluster.this.slurm_configuration.slurm_custom_settings : "${s.parameter_name}=${s.parameter_value}"], "AccountingStorageEnforce=associations,limits,qos")
    )
    error_message = "accounting is not as asked"
  }
}

run "refused" {
  command = plan

  variables {
    name           = "Has Spaces"
    size           = "HUGE"
    idle_minutes   = 0
    log_days       = 2
    shared_storage = { type = "lustre", lustre_gib = 1300, lustre_deployment = "SCRATCH_2", lustre_throughput = 125 }
    node_groups = {
      login = { instance_type = "p5.48xlarge", max_nodes = 0, purchase = "CAPACITY_BLOCK" }
    }
  }

  expect_failures = [var.name, var.size, var.idle_minutes, var.log_days, var.shared_storage, var.node_groups]
}

run "too_many_nodes" {
  command = plan

  variables {
    node_groups = { gpu = { instance_type = "g6e.4xlarge", max_nodes = 32 } }
  }

  expect_failures = [awscc_pcs_cluster.this]
}

run "no_efa_there" {
  command = plan

  variables {
    node_groups = { gpu = { instance_type = "g6e.4xlarge", max_nodes = 1, efa = true } }
  }

  expect_failures = [aws_launch_template.node["gpu"]]
}

run "no_such_zone" {
  command = plan

  variables {
    node_groups = { gpu = { instance_type = "g6e.4xlarge", max_nodes = 1, zone = "us-east-1f" } }
  }

  expect_failures = [var.node_groups]
}
