variable "name" {
  description = "Prefix of all names."
  type        = string
}

variable "cidr" {
  description = "Addresses of the VPC, a /16 to /20. Matters only if it is connected to other networks."
  type        = string
  default     = "10.71.0.0/16"

  validation {
    condition     = can(cidrhost(var.cidr, 0)) && tonumber(split("/", var.cidr)[1]) >= 16 && tonumber(split("/", var.cidr)[1]) <= 20
    error_message = "cidr: an IPv4 range from /16 to /20."
  }
}

variable "availability_zones" {
  description = "Zones that get a private subnet each. The first one holds the scheduler, the login node and the endpoints."
  type        = list(string)

  validation {
    condition     = length(var.availability_zones) >= 1 && length(var.availability_zones) <= 8 && length(distinct(var.availability_zones)) == length(var.availability_zones)
    error_message = "availability_zones: 1 to 8 different zones, such as us-east-1a."
  }
}

variable "bucket_arn" {
  description = "The only bucket that can be reached from the VPC."
  type        = string
}
