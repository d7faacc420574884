# The providers' versions that these files were checked against, for OpenTofu and for Terraform. "tofu init" adds their
# checksums, signed by the registry, when it fetches them first; "tofu init -upgrade" takes newer ones.

provider "registry.opentofu.org/hashicorp/aws" {
  version     = "6.25.0"
  constraints = "~> 6.0"
}

provider "registry.opentofu.org/hashicorp/awscc" {
  version     = "1.96.0"
  constraints = "~> 1.80"
}

provider "registry.terraform.io/hashicorp/aws" {
  version     = "6.25.0"
  constraints = "~> 6.0"
}

provider "registry.terraform.io/hashicorp/awscc" {
  version     = "1.96.0"
  constraints = "~> 1.80"
}
