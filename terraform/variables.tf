variable "region" {
  description = "AWS region."
  type        = string
}

variable "name" {
  description = "Name of the cluster and prefix of all names but the bucket's."
  type        = string
  default     = "tokenfork"
}

variable "tags" {
  description = "Tags of everything, beside Project, Cluster and ManagedBy."
  type        = map(string)
  default     = {}
}

# The bucket.

variable "bucket_name" {
  description = "Name of the bucket; unique in all of AWS."
  type        = string
}

variable "versioned" {
  description = "Keep replaced and deleted objects for noncurrent_days."
  type        = bool
  default     = true
}

variable "noncurrent_days" {
  description = "Days after which replaced and deleted objects are removed."
  type        = number
  default     = 30
}

variable "expire_parts" {
  description = "Merged jobs whose parts may go: job name => days after which objects below parts/ are removed."
  type        = map(number)
  default     = {}
}

variable "delete_bucket_with_contents" {
  description = "Let destroy remove the bucket with all jobs and models. Otherwise destroy stops at a bucket that is not empty."
  type        = bool
  default     = false
}

# The cluster.

variable "create_cluster" {
  description = "false: the bucket and its rights alone, for a cluster that exists elsewhere, or to go back to zero and keep the data."
  type        = bool
  default     = true
}

variable "availability_zones" {
  description = "Zones of the cluster; look up where your GPU type is offered. One is enough, more help on-demand and spot nodes."
  type        = list(string)
  default     = []

  validation {
    condition     = !var.create_cluster || length(var.availability_zones) > 0
    error_message = "availability_zones: name at least one zone, such as us-east-1a, or set create_cluster = false."
  }
}

variable "vpc_cidr" {
  description = "Addresses of the VPC, a /16 to /20."
  type        = string
  default     = "10.71.0.0/16"
}

variable "cluster_size" {
  description = "Size of the scheduler: SMALL holds 32 nodes and 256 jobs, MEDIUM 512 and 8,192, LARGE 2,048 and 16,384. Each waiting array task is a job."
  type        = string
  default     = "SMALL"
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
}

variable "ami_id" {
  description = "AMI of all nodes. null: the newest PCS-ready DLAMI at each apply; set it to the output ami_id to keep what you have."
  type        = string
  default     = null
}

variable "accounting" {
  description = "Slurm's accounting, {} to have it: see modules/cluster/variables.tf. AWS bills it; it can't be switched off again."
  type = object({
    keep_days = optional(number)
    enforce   = optional(string)
  })
  default = null
}

variable "log_days" {
  description = "Days that CloudWatch keeps the scheduler's logs."
  type        = number
  default     = 14
}

variable "login_instance_type" {
  description = "Instance type of the login node, which always runs."
  type        = string
  default     = "m7i.xlarge"
}

variable "shared_storage" {
  description = "File system at /shared: see modules/cluster/variables.tf."
  type = object({
    type              = string
    lustre_gib        = optional(number)
    lustre_deployment = optional(string)
    lustre_throughput = optional(number)
  })
  default = { type = "efs" }
}

variable "node_groups" {
  description = "Nodes with GPUs, and one group without for plan, merge and report; each group is a Slurm partition: see modules/cluster/variables.tf."
  type = map(object({
    instance_type           = string
    max_nodes               = number
    min_nodes               = optional(number)
    purchase                = optional(string)
    capacity_reservation_id = optional(string)
    zone                    = optional(string)
    efa                     = optional(bool)
    root_gib                = optional(number)
    max_hours               = optional(number)
  }))
  default = {}
}

# The commands that next_steps prints and the bill that bill adds up; nothing is made from this.

variable "run" {
  description = <<-EOT
    What next_steps runs, so that it can be copied as it stands. table: a file, uploaded to tables/. small, reference, judge:
    models by their names at the hub; judge null: nobody on the nodes. gpus: of an array task. plan_flags, infer_flags,
    judge_flags: further flags of these stages. gpu_hours: what `tokenfork plan --dry-run` prints for infer and for the judge;
    stored_gb: models, image and table in the bucket.
  EOT
  type = object({
    table       = optional(string, "TABLE")
    small       = optional(string, "ORG/SMALL")
    reference   = optional(string, "ORG/REFERENCE")
    judge       = optional(string)
    gpus        = optional(number, 1)
    plan_flags  = optional(string, "")
    infer_flags = optional(string, "")
    judge_flags = optional(string, "")
    gpu_hours   = optional(object({ infer = number, judge = optional(number, 0) }))
    stored_gb   = optional(number, 0)
  })
  default = {}
}

# The bill.

variable "budget" {
  description = <<-EOT
    A monthly limit in US dollars; mail goes to emails at 50, 80 and 100 % spent and at 100 % forecast. It warns, it stops
    nothing. Counts the whole account, or with only_tagged what carries the Cluster tag, once that tag is active for billing.
  EOT
  type = object({
    monthly_usd = number
    emails      = list(string)
    only_tagged = optional(bool, false)
  })
  default = null
}
