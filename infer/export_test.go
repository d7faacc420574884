package infer

import (
	"time"

	"tokenfork/internal/fleet"
)

// HurryUp shortens the waits for servers that refuse or are gone.
func HurryUp() {
	retryUnit = 10 * time.Millisecond
	fleet.HurryUp()
}
