//! What Redis does in one step, as Lua. Sent by digest; a server that does not know the digest gets the text.
//!
//! A key of an event holds `1` when the event is done, and its owner's token (a larger number) while it is in flight.
//! Small whole numbers are what Redis keeps for nothing beside the key.

/// A script and the digest that Redis knows it by.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) text: &'static str,
    pub(super) digest: String,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) claim: Script,
    pub(super) settle: Script,
    pub(super) renew: Script,
    pub(super) limit: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            claim: Script::new(CLAIM),
            settle: Script::new(SETTLE),
            renew: Script::new(RENEW),
            limit: Script::new(LIMIT),
        }
    }
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self { text, digest: redis::Script::new(text).get_hash().to_owned() }
    }
}

/// Keys: the ID, then the content. Arguments: token, lease in ms. Answers 0 new, 1 duplicate, 2 replayed, 3 in flight.
/// What is final goes first. A claim that is asked for again by its own token is given again.
const CLAIM: &str = "\
local replayed, flying = false, false
for i, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value == '1' then
    if i == 1 then return 1 end
    replayed = true
  elseif value and value ~= ARGV[1] then
    flying = true
  end
end
if replayed then return 2 end
if flying then return 3 end
for _, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
end
return 0
";

/// Keys as above. Arguments: token, time to remember in ms or 0 for a failure. Answers 1 when all keys were the token's.
/// A failure gives back what is the token's; a success has that remembered, and what is nobody's.
const SETTLE: &str = "\
local owned = 1
local done = ARGV[2] ~= '0'
for _, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  local own = value == ARGV[1]
  if not own then owned = 0 end
  if done and (own or not value) then
    redis.call('SET', key, '1', 'PX', ARGV[2])
  elseif own then
    redis.call('DEL', key)
  end
end
return owned
";

/// Keys as above. Arguments: token, lease in ms. Answers 1 when all keys are the token's now: a claim that a server
/// forgot is made again, unless somebody else has one of its keys.
const RENEW: &str = "\
for _, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value and value ~= ARGV[1] then return 0 end
end
for _, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
end
return 1
";

/// Keys: buckets. Arguments: go on after a refusal (1 or 0), then for each bucket the interval and the depth in ns, then
/// in tests the time in s and ns (a bucket then lives an hour longer, since the server's time is another). Answers for each bucket that was asked 0, or the ns after which one more would fit.
///
/// GCRA as `check::rate_limit` has it, on the server's clock. A bucket holds the time at which it is idle again, as
/// seconds and nanoseconds: together they would not fit a number of Lua's.
const LIMIT: &str = "\
local s, n, more = ARGV[2 * #KEYS + 2], ARGV[2 * #KEYS + 3], 3600000
if not s then
  local now = redis.call('TIME')
  s, n, more = now[1], now[2] * 1000, 0
end
s, n = tonumber(s), tonumber(n)
local waits = {}
for i, key in ipairs(KEYS) do
  local interval, depth = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local debt = 0
  local idle = redis.call('GET', key)
  if idle then
    local dot = string.find(idle, '.', 1, true)
    debt = (tonumber(string.sub(idle, 1, dot - 1)) - s) * 1e9 + tonumber(string.sub(idle, dot + 1)) - n
    if debt < 0 then debt = 0 end
  end
  debt = debt + interval
  if debt <= depth then
    local at = n + debt
    local seconds = math.floor(at / 1e9)
    redis.call('SET', key, string.format('%d.%d', s + seconds, at - seconds * 1e9), 'PX', string.format('%d', math.ceil(debt / 1e6) + more))
    waits[i] = 0
  else
    waits[i] = debt - depth
    if ARGV[1] == '0' then break end
  end
end
return waits
";
