package metrics

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	pluginGeneration = desc("plugin_generation", "Generation of the plugin that most of its volumes run.", "plugin")
	pluginInfo       = desc("plugin_info", "1; the labels say what most of the plugin's volumes run.", "plugin", "version", "hash")
	pluginDiffers    = desc("plugin_differs", "1 if what runs differs from what the configuration names.", "plugin")
	pluginUpgrades   = desc("plugin_upgrades_total", "Upgrades that came to their end well (done), or changed nothing (failed).", "plugin", "result")
	pluginRollbacks  = desc("plugin_rollbacks_total", "Ways back to the generation before.", "plugin", "reason")
	pluginTakeovers  = desc("plugin_takeovers_total", "Volumes that another generation has taken over.", "plugin", "method")
	pluginLastPause  = desc("plugin_last_pause_seconds", "The longest that a request had to wait for the last takeover.", "plugin")

	processUp       = desc("plugin_process_up", "1 if the plugin's process serves.", "plugin")
	processRestarts = desc("plugin_process_restarts_total", "Processes that had to be started in the place of one that ended.", "plugin")
	processCPU      = desc("plugin_process_cpu_seconds", "Processor time that the present process has used.", "plugin")
	processMemory   = desc("plugin_process_memory_bytes", "Memory that the present process uses.", "plugin")

	volumeGeneration = desc("volume_plugin_generation", "Generation of the plugin that the volume runs.", "volume", "plugin")
)

// RollbackReasons and TakeoverMethods are the words that counters are shown by;
// what has another is added up as "other". They are shown from the start, so that
// the first of a kind is seen as a change.
var (
	RollbackReasons = []string{"operator", "traps", "contract", "connections", "stalled", "errors", "latency"}
	TakeoverMethods = []string{"handover", "second-session", "serial"}
)

// maxLabel is the most bytes of what a plugin says of itself that become a
// label.
const maxLabel = 64

func describePlugins(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{pluginGeneration, pluginInfo, pluginDiffers, pluginUpgrades, pluginRollbacks,
		pluginTakeovers, pluginLastPause, processUp, processRestarts, processCPU, processMemory, volumeGeneration} {
		ch <- d
	}
}

func collectPlugin(ch chan<- prometheus.Metric, p *Plugin) {
	gauge(ch, pluginGeneration, float64(p.Generation), p.Name)
	gauge(ch, pluginInfo, 1, p.Name, label(p.Version), label(p.Hash))
	if f := p.Process; f != nil {
		gauge(ch, processUp, truth(f.Up), p.Name)
		counter(ch, processRestarts, f.Restarts, p.Name)
		gauge(ch, processCPU, f.CPU.Seconds(), p.Name)
		gauge(ch, processMemory, float64(f.Memory), p.Name)
	}
	if !p.Upgradable {
		return
	}
	gauge(ch, pluginDiffers, truth(p.Differs), p.Name)
	counter(ch, pluginUpgrades, p.Done, p.Name, "done")
	counter(ch, pluginUpgrades, p.Failed, p.Name, "failed")
	byWord(ch, pluginRollbacks, p.Name, p.Rollbacks, RollbackReasons)
	byWord(ch, pluginTakeovers, p.Name, p.Takeovers, TakeoverMethods)
	gauge(ch, pluginLastPause, p.LastPause.Seconds(), p.Name)
}

// byWord gives a counter for each word that is known, and one for all others if
// there are any.
func byWord(ch chan<- prometheus.Metric, d *prometheus.Desc, plugin string, counts map[string]uint64, words []string) {
	for _, w := range words {
		counter(ch, d, counts[w], plugin, w)
	}
	other := uint64(0)
	for w, n := range counts {
		if !slices.Contains(words, w) {
			other += n
		}
	}
	if other > 0 {
		counter(ch, d, other, plugin, "other")
	}
}

// label makes a stranger's text fit for one.
func label(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) <= maxLabel {
		return s
	}
	cut := maxLabel
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}
