#include "clock.h"

#include <algorithm>

namespace emu {

Tick Clock::known(uint64_t cta, uint32_t warp, uint32_t rank) const {
  if (!data_) return 0;
  const auto& all = data_->statements;
  auto it = std::lower_bound(all.begin(), all.end(), Statement{Subject::cta(cta), 0});
  Tick tick = data_->floor;
  for (; it != all.end() && Subject::cta_of(it->first) == cta; ++it) {
    if (Subject::is_cta(it->first) || it->first == Subject::warp(cta, warp) ||
        it->first == Subject::thread(cta, rank)) {
      tick = std::max(tick, it->second);
    }
  }
  return tick;
}

// Add a statement whose subject sorts last, unless the floor or that of its CTA implies it.
void Clock::append(Data& data, Statement statement) {
  if (statement.second <= data.floor) return;
  if (Subject::is_cta(statement.first)) {
    data.last_cta = statement;
  } else if (Subject::cta_of(statement.first) == Subject::cta_of(data.last_cta.first) &&
             statement.second <= data.last_cta.second) {
    return;
  }
  data.statements.push_back(statement);
}

Clock Clock::joined(const Clock& other) const {
  if (!other.data_ || data_ == other.data_) return *this;
  if (!data_) return other;
  Data* result = new Data;
  result->floor = std::max(data_->floor, other.data_->floor);
  const auto& a = data_->statements;
  const auto& b = other.data_->statements;
  result->statements.reserve(a.size() + b.size());
  size_t i = 0, j = 0;
  while (i < a.size() || j < b.size()) {
    if (j == b.size() || (i < a.size() && a[i].first < b[j].first)) {
      append(*result, a[i++]);
    } else if (i == a.size() || b[j].first < a[i].first) {
      append(*result, b[j++]);
    } else {
      append(*result, {a[i].first, std::max(a[i].second, b[j].second)});
      ++i, ++j;
    }
  }
  return Clock(result);
}

Clock Clock::with(uint64_t subject, Tick tick) const {
  Data* single = new Data;
  single->statements.push_back({subject, tick});
  return Clock(single).joined(*this);
}

Clock Clock::raised(uint64_t ctas) const {
  if (!data_ || data_->statements.size() < ctas) return *this;
  uint64_t count = 0;
  Tick least = ~Tick{0};
  for (const auto& [subject, tick] : data_->statements) {
    if (!Subject::is_cta(subject)) continue;
    ++count;
    least = std::min(least, tick);
  }
  if (count < ctas || least <= data_->floor) return *this;
  Data* result = new Data;
  result->floor = least;
  for (const auto& statement : data_->statements) append(*result, statement);
  return Clock(result);
}

}  // namespace emu
