;; Has all timers fire at once, for ever. Requests are answered as they should be.
(func $opened
  (call $limits)
  (call $timer (i32.const 0)) (call $timer (i32.const 1)) (call $timer (i32.const 2)) (call $timer (i32.const 3))
  (call $timer (i32.const 4)) (call $timer (i32.const 5)) (call $timer (i32.const 6)) (call $timer (i32.const 7))
  (call $timer (i32.const 8)) (call $timer (i32.const 9)) (call $timer (i32.const 10)) (call $timer (i32.const 11))
  (call $timer (i32.const 12)) (call $timer (i32.const 13)) (call $timer (i32.const 14)) (call $timer (i32.const 15)))
(func $timer (param $id i32)
  (call $head (i64.const 17) (i64.const 24))
  (call $put (i64.extend_i32_u (local.get $id)))
  (call $put (i64.const 1)))
