package scenario_test

import (
	"testing"

	"blockengine/internal/vmtest/scenario"
)

// TestQSD runs the scenarios with a server that is known to be good, so that
// what fails elsewhere is not the scenario.
func TestQSD(t *testing.T) { scenario.All(t, scenario.QSD) }
