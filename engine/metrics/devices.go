package metrics

import "github.com/prometheus/client_golang/prometheus"

var (
	deviceState      = desc("device_state", "1 for the state that the export's block device is in.", "export", "device", "state")
	deviceRecovered  = desc("device_recovered", "1 if the engine before had the device and this one goes on with it.", "export", "device")
	deviceAgain      = desc("device_again_writes_total", "Writes that the engine before may have sent already.", "export", "device")
	deviceReconnects = desc("device_reconnects_total", "Connections of the kernel's NBD driver that were lost and made again.", "export", "device")
)

// DeviceStates are the states of a block device of this host. All are shown from
// the start.
var DeviceStates = []string{"serving", "closing", "removed", "broken"}

func describeDevices(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{deviceState, deviceRecovered, deviceAgain, deviceReconnects} {
		ch <- d
	}
}

func collectDevice(ch chan<- prometheus.Metric, e *Export) {
	d := e.Device
	if d == nil {
		return
	}
	for _, s := range DeviceStates {
		gauge(ch, deviceState, truth(s == d.State), e.Name, d.Path, s)
	}
	gauge(ch, deviceRecovered, truth(d.Recovered), e.Name, d.Path)
	counter(ch, deviceAgain, d.Again, e.Name, d.Path)
	counter(ch, deviceReconnects, d.Reconnects, e.Name, d.Path)
}
