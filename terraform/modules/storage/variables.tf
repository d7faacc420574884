variable "bucket_name" {
  description = "Name of the bucket; unique in all of AWS."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket_name))
    error_message = "bucket_name: 3 to 63 lower-case letters, digits and hyphens, no dots (they break TLS host names)."
  }
}

variable "jobs_prefix" {
  description = "Prefix that the writer may write: jobs are s3://BUCKET/JOBS_PREFIX<name>."
  type        = string
  default     = "jobs/"

  validation {
    condition     = can(regex("^[^/*?$]([^*?$]*[^/*?$])?/$", var.jobs_prefix)) && !can(regex("^(images|models|software|tables)/", var.jobs_prefix))
    error_message = "jobs_prefix ends in one '/', does not start with one, holds no wildcard, and is none of images/, models/, software/ and tables/."
  }
}

variable "versioned" {
  description = "Keep replaced and deleted objects for noncurrent_days. tokenfork does not need it; it guards against mistakes."
  type        = bool
  default     = true
}

variable "noncurrent_days" {
  description = "Days after which replaced and deleted objects of a versioned bucket are removed."
  type        = number
  default     = 30

  validation {
    condition     = var.noncurrent_days >= 1
    error_message = "noncurrent_days is at least 1."
  }
}

variable "expire_parts" {
  description = "Merged jobs whose parts may go: job name => days after which objects below parts/ are removed."
  type        = map(number)
  default     = {}

  validation {
    condition     = alltrue([for name, days in var.expire_parts : can(regex("^[^/*?][^*?]*[^/*?]$|^[^/*?]$", name)) && days >= 1])
    error_message = "expire_parts: the name of a job without slash at its ends => at least 1 day."
  }
}

variable "delete_with_contents" {
  description = "Let destroy remove the bucket with everything in it. Otherwise destroy stops at a bucket that is not empty."
  type        = bool
  default     = false
}
