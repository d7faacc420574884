variable "name" {
  description = "Name of the cluster and prefix of all names."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,23}$", var.name))
    error_message = "name: 3 to 24 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "subnet_ids" {
  description = "Private subnet of each zone."
  type        = map(string)
}

variable "first_zone" {
  description = "Zone of the scheduler, the login node and a Lustre file system."
  type        = string
}

variable "security_group_id" {
  description = "Security group of scheduler, nodes and shared file system, open to itself."
  type        = string
}

variable "bucket" {
  description = "Bucket with jobs, tables, models and software."
  type        = string
}

variable "writer_policy_arn" {
  description = "IAM policy by which tasks write jobs."
  type        = string
}

variable "reader_policy_arn" {
  description = "IAM policy by which nodes read models and software."
  type        = string
}

variable "size" {
  description = "Size of the scheduler: SMALL holds 32 nodes and 256 jobs, MEDIUM 512 and 8,192, LARGE 2,048 and 16,384. Each waiting array task is a job."
  type        = string
  default     = "SMALL"

  validation {
    condition     = contains(["SMALL", "MEDIUM", "LARGE"], var.size)
    error_message = "size: SMALL, MEDIUM or LARGE."
  }
}

variable "slurm_version" {
  description = "Slurm version that AWS PCS and the AMI both offer."
  type        = string
  default     = "25.11"
}

variable "idle_minutes" {
  description = "Minutes without a job after which a node is ended."
  type        = number
  default     = 10

  validation {
    condition     = var.idle_minutes >= 1
    error_message = "idle_minutes is at least 1."
  }
}

variable "ami_id" {
  description = "AMI of all nodes, x86_64 and ready for PCS. null: the newest PCS-ready DLAMI (Ubuntu 24.04, NVIDIA driver) at each apply."
  type        = string
  default     = null
}

variable "accounting" {
  description = <<-EOT
    Slurm's accounting (sacct, QOS, limits), which AWS bills and which can't be switched off again: null has none.
    keep_days: days after which records are removed, -1 never. enforce: what Slurm's AccountingStorageEnforce takes, such as
    "associations,limits,qos,safe"; then only users that sacctmgr knows may send jobs.
  EOT
  type = object({
    keep_days = optional(number, 365)
    enforce   = optional(string)
  })
  default = null
}

variable "log_days" {
  description = "Days that CloudWatch keeps the scheduler's logs: a number that CloudWatch knows, such as 7, 14, 30 or 90."
  type        = number
  default     = 14

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365], var.log_days)
    error_message = "log_days: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180 or 365."
  }
}

variable "login_instance_type" {
  description = "Instance type of the login node, which always runs."
  type        = string
  default     = "m7i.xlarge"
}

variable "shared_storage" {
  description = <<-EOT
    The file system at /shared: the folder jobs are sent from, and logs. Models are not on it: each node has its own copy.
    type efs: billed by what it holds and what is read. type lustre: billed by its size, for jobs kept on it in place of S3.
    lustre_deployment SCRATCH_2, or PERSISTENT_2 with lustre_throughput in MB/s per TiB.
  EOT
  type = object({
    type              = string
    lustre_gib        = optional(number, 1200)
    lustre_deployment = optional(string, "SCRATCH_2")
    lustre_throughput = optional(number)
  })
  default = { type = "efs" }

  validation {
    condition     = contains(["efs", "lustre"], var.shared_storage.type)
    error_message = "shared_storage.type: efs or lustre."
  }

  validation {
    condition     = var.shared_storage.lustre_gib == 1200 || (var.shared_storage.lustre_gib > 0 && var.shared_storage.lustre_gib % 2400 == 0)
    error_message = "shared_storage.lustre_gib: 1200 or a multiple of 2400."
  }

  validation {
    condition = (
      var.shared_storage.lustre_deployment == "SCRATCH_2" && var.shared_storage.lustre_throughput == null ||
      var.shared_storage.lustre_deployment == "PERSISTENT_2" && contains([125, 250, 500, 1000], coalesce(var.shared_storage.lustre_throughput, 0))
    )
    error_message = "shared_storage: SCRATCH_2 without lustre_throughput, or PERSISTENT_2 with one of 125, 250, 500, 1000."
  }
}

variable "node_groups" {
  description = <<-EOT
    Nodes; each group is a Slurm partition of its name. The first one with GPUs is the default; one without GPUs serves plan,
    merge and report.
    max_nodes, min_nodes: nodes are started for jobs and ended when idle; min_nodes are always kept (0: none).
    purchase: ONDEMAND, SPOT or CAPACITY_BLOCK; capacity_reservation_id goes with CAPACITY_BLOCK and may go with ONDEMAND.
    zone: null spreads over all zones, or takes the first one where EFA or a reservation asks for a single zone.
    efa: true puts EFA interfaces on every network card, and on-demand nodes in a placement group. A task of tokenfork stays on
    one node and uses neither, and they keep the group within one zone.
    max_hours: longest time of a job (Slurm's MaxTime).
  EOT
  type = map(object({
    instance_type           = string
    max_nodes               = number
    min_nodes               = optional(number, 0)
    purchase                = optional(string, "ONDEMAND")
    capacity_reservation_id = optional(string)
    zone                    = optional(string)
    efa                     = optional(bool, false)
    root_gib                = optional(number, 200)
    max_hours               = optional(number, 24)
  }))

  validation {
    condition     = alltrue([for name, g in var.node_groups : can(regex("^[a-z][a-z0-9-]{2,23}$", name)) && name != "login"])
    error_message = "node_groups: names are 3 to 24 lower-case letters, digits and hyphens, and not login."
  }

  validation {
    condition     = length(var.node_groups) > 0 && alltrue([for g in var.node_groups : g.min_nodes >= 0 && g.max_nodes >= 1 && g.min_nodes <= g.max_nodes && g.max_hours >= 1 && floor(g.max_hours) == g.max_hours])
    error_message = "node_groups: at least one group, with 0 <= min_nodes <= max_nodes, max_nodes >= 1 and max_hours a whole number from 1."
  }

  validation {
    condition = alltrue([
      for g in var.node_groups : lookup({
        ONDEMAND       = true
        SPOT           = g.capacity_reservation_id == null
        CAPACITY_BLOCK = g.capacity_reservation_id != null
      }, g.purchase, false)
    ])
    error_message = "node_groups: purchase is ONDEMAND, SPOT or CAPACITY_BLOCK; CAPACITY_BLOCK needs a capacity_reservation_id, SPOT can't have one."
  }

  validation {
    condition     = alltrue([for g in var.node_groups : g.zone == null || contains(keys(var.subnet_ids), coalesce(g.zone, "-"))])
    error_message = "node_groups: zone is one of the cluster's zones: ${join(", ", keys(var.subnet_ids))}."
  }
}

variable "tags" {
  description = "Tags of what the provider's default tags don't reach: the scheduler, its node groups, instances and their volumes."
  type        = map(string)
  default     = {}
}
