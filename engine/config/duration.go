package config

import (
	"fmt"
	"strings"
	"time"
)

// parseDuration reads a duration from 0 to limit. A bare "0" needs no unit.
func parseDuration(s, example string, limit time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, &ValueError{quote(s) + " is no duration",
			fmt.Sprintf("write a number with a unit, as in %q", example)}
	case d < 0:
		return 0, &ValueError{quote(s) + " is negative",
			fmt.Sprintf(`write "0" or more, as in %q`, example)}
	case d > limit:
		return 0, &ValueError{quote(s) + " is too long",
			fmt.Sprintf("write %q or less", formatDuration(limit))}
	}
	return d, nil
}

// formatDuration writes 24h and 10ms where Duration.String writes 24h0m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
