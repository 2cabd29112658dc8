-- wrk script: sends complete requests from a file in turn; the file holds, for each, its length on a line, then its bytes.
-- Statuses of 400 and above are counted by wrk itself, so that no Lua runs for an answer, unless a second file is named:
-- there the time of every answer goes, for models slow enough that it costs nothing.

local requests = {}
local position = 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  while true do
    local length = file:read("*l")
    if not length then break end
    requests[#requests + 1] = file:read(tonumber(length))
  end
  file:close()
  if args[2] then
    local ffi = require("ffi")
    ffi.cdef("typedef struct { long seconds; long nanoseconds; } moment_t; int clock_gettime(int, moment_t *);")
    local moment = ffi.new("moment_t")
    local times = assert(io.open(args[2], "w"))
    times:setvbuf("line")
    response = function()
      ffi.C.clock_gettime(1, moment)
      times:write(string.format("%.6f\n", tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9))
    end
  end
end

function request()
  position = position % #requests + 1
  return requests[position]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "seconds": %.6f, "bytes": %d, "status_errors": %d, "socket_errors": %d, "timeouts": %d,'
    .. ' "p50_ms": %.4f, "p90_ms": %.4f, "p99_ms": %.4f, "max_ms": %.4f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, errors.status,
    errors.connect + errors.read + errors.write, errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
